// Nothing but a source that is compiled with the tests' precompiled header: CMake makes one only for a target that has
// such.
#include "tests/support/pch.hpp"
