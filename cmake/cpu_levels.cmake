# The instruction-set levels the CPU kernels are compiled for, lowest first.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(FASTSEG_CPU_LEVELS baseline avx2 avx512)
else()
  set(FASTSEG_CPU_LEVELS baseline)
endif()

set(FASTSEG_CPU_FLAGS_baseline "")
set(FASTSEG_CPU_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(FASTSEG_CPU_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi2
    -mprefer-vector-width=512)

# No errno and no trapping for maths (neither is observable through the ops); NaN, infinities and
# signed zeros keep their IEEE meaning, so no -ffast-math.
function(fastseg_configure_cpu_level target level)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
  target_compile_definitions(${target} PRIVATE FASTSEG_CPU_LEVEL=${level})
  target_compile_options(${target} PRIVATE ${FASTSEG_CPU_FLAGS_${level}} -O3 -ffp-contract=fast
    -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi
    -Wno-uninitialized -Wno-maybe-uninitialized) # GCC 12 warns about its own AVX-512 headers
  if(OpenMP_CXX_FOUND)
    target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  endif()
endfunction()
