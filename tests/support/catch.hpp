// Catch2 under one include: Debian 12 and Ubuntu 22.04 have version 2, Debian 13 and Ubuntu 24.04 version 3.
#pragma once
#if HFLEX_CATCH_MAJOR >= 3
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
