// Precompiled for everything that touches CAF or Cap'n Proto: they are most of such a file's compile time.
#pragma once
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>
