// The kernel tests of tests/unit/cuda, on a device.
#include "tests/unit/cuda/attention_test.cpp"
#include "tests/unit/cuda/rows_test.cpp"
#include "tests/unit/cuda/sampling_test.cpp"
