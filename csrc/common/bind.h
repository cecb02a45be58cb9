// What every <op>_bind.cpp needs: pointers travel as integers (tensor.data_ptr()).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "common/dtype.h"

namespace fastseg {

namespace py = pybind11;

template <class T = void> inline T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Launchers run without the GIL.
using release_gil = py::call_guard<py::gil_scoped_release>;

} // namespace fastseg
