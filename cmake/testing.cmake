# The test build of the native core (FASTSEG_TESTING=ON, target testing_core): every *_cuda.cu runs on
# the CPU through csrc/testing/cuda_on_cpu.h, and every *_cpu.cpp is compiled once with 64-byte vectors
# whatever the machine has, so that the AVX-512 shape of each kernel is run everywhere.

# A .cu becomes C++ by being included in a .cpp.
set(EMULATED_SOURCES)
foreach(source IN LISTS CUDA_SOURCES)
  get_filename_component(name ${source} NAME_WE)
  set(wrapper ${CMAKE_BINARY_DIR}/testing/${name}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
  list(APPEND EMULATED_SOURCES ${wrapper})
endforeach()

# FASTSEG_X86=0: one CPU level. PYBIND11_STDLIB: its own registry of types, so that the module can be
# loaded beside fastseg._C.
add_library(testing_options INTERFACE)
target_include_directories(testing_options INTERFACE csrc)
target_compile_definitions(testing_options INTERFACE FASTSEG_VERSION="${FASTSEG_VERSION}"
  FASTSEG_CUDA_ON_CPU FASTSEG_WITH_CUDA FASTSEG_X86=0 PYBIND11_STDLIB="_fastseg_testing")
target_compile_options(testing_options INTERFACE -O1 -Wall -Wextra -Wno-psabi
  -Wno-unknown-pragmas) # unroll
if(OpenMP_CXX_FOUND)
  target_link_libraries(testing_options INTERFACE OpenMP::OpenMP_CXX)
endif()

add_library(testing_cpu OBJECT EXCLUDE_FROM_ALL ${CPU_SOURCES})
target_link_libraries(testing_cpu PRIVATE testing_options)
target_compile_definitions(testing_cpu PRIVATE FASTSEG_CPU_LEVEL=baseline FASTSEG_SIMD_BYTES=64)
target_compile_options(testing_cpu PRIVATE -ffp-contract=fast)
if("avx2" IN_LIST FASTSEG_CPU_LEVELS)
  target_compile_options(testing_cpu PRIVATE ${FASTSEG_CPU_FLAGS_avx2})
endif()

# The accesses of the kernels are counted: csrc/testing/traffic.cpp stands in for this sanitizer's
# library, which cannot be combined with another sanitizer.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT FASTSEG_SANITIZE)
  set_source_files_properties(${EMULATED_SOURCES} csrc/testing/emulation_selftest.cpp PROPERTIES
    COMPILE_OPTIONS "-fsanitize=thread;-fno-tree-vectorize;-fno-tree-slp-vectorize")
endif()

pybind11_add_module(testing_core MODULE NO_EXTRAS EXCLUDE_FROM_ALL
  csrc/module.cpp ${COMMON_SOURCES} csrc/testing/emulation_selftest.cpp csrc/testing/traffic.cpp
  ${BIND_SOURCES} ${EMULATED_SOURCES} $<TARGET_OBJECTS:testing_cpu>)
target_link_libraries(testing_core PRIVATE testing_options Threads::Threads)
set_target_properties(testing_core PROPERTIES OUTPUT_NAME _C
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/testing)
