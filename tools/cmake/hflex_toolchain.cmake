# Compiler settings that every target shares. Targets take them by linking `hflex_options`.
add_library(hflex_options INTERFACE)
target_include_directories(hflex_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(hflex_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-align>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  # Sees copies of empty optionals where there are none. gcc 12 and clang keep watch.
  target_compile_options(hflex_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()
if(HFLEX_WERROR)
  target_compile_options(hflex_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
# RelWithDebInfo keeps assertions: our own invariants are checked in production too (HFLEX_CHECK), so NDEBUG only
# silences third-party asserts. -g1 keeps symbol names and lines in back-traces at a third of the size.
string(REPLACE "-g " "-g1 " CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO} ")

if(HFLEX_SANITIZE) # -O1: half the compile time of -O2, and better back-traces
  string(REPLACE "-O2" "-O1" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>) # gcc: wrong about instrumented library code
  endif()
endif()
if(HFLEX_SANITIZE STREQUAL "address")
  # vptr: CAF 0.17 casts the sentinels of its mailboxes' lists to elements, in headers that are compiled with ours.
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -fno-sanitize=vptr)
  add_link_options(-fsanitize=address,undefined)
elseif(HFLEX_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>) # gcc: atomic_thread_fence is not modelled
  endif()
elseif(HFLEX_SANITIZE)
  message(FATAL_ERROR "HFLEX_SANITIZE must be empty, 'address' or 'thread', not '${HFLEX_SANITIZE}'")
endif()

# Coverage feedback needs every library instrumented.
if(HFLEX_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang" OR HFLEX_SANITIZE)
    message(FATAL_ERROR "HFLEX_FUZZ needs clang, and brings its own sanitizers: -DCMAKE_CXX_COMPILER=clang++ without HFLEX_SANITIZE")
  endif()
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link,address,undefined>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=undefined> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=vptr>)
  add_link_options(-fsanitize=address,undefined)
endif()

find_program(HFLEX_CCACHE ccache)
if(HFLEX_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # pch_defines and time_macros let ccache reuse objects that were built with a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime" ${HFLEX_CCACHE})
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
endif()
