# The program of the bundle, for the simulated device (gpu-check-sim) and, where
# nvcc is, for real ones (gpu-check-cuda): every test of the backend, the bench
# and keystep, linked once. Included by tests/simt/CMakeLists.txt.
set(here ${CMAKE_SOURCE_DIR}/experiments/gpu-check)
set(simt ${CMAKE_SOURCE_DIR}/tests/simt)
get_property(kernels GLOBAL PROPERTY SIMT_ALL_KERNELS)
get_property(tests GLOBAL PROPERTY SIMT_ALL_TESTS)
file(GLOB families CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.cu)
list(APPEND kernels ${families} ${simt}/matrix_check.cu ${simt}/sample.cu)
list(APPEND tests ${here}/check_ptx.cpp)
list(REMOVE_DUPLICATES kernels)
list(REMOVE_DUPLICATES tests)
file(GLOB cli CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/host/cli/*.c)
set_source_files_properties(${CMAKE_SOURCE_DIR}/host/cli/main.c PROPERTIES
  COMPILE_DEFINITIONS main=keystep_main)

function(gpu_check_program name library build)
  add_executable(${name} ${here}/main.cpp ${here}/runner.cpp ${here}/bench.cpp
    ${here}/bench_ops.cpp ${here}/bench_attention.cpp
    ${simt}/build_name.c ${tests} ${cli}
    $<TARGET_OBJECTS:ks_commit_object> ${ARGN})
  target_include_directories(${name} BEFORE PRIVATE ${here}/shim)
  target_include_directories(${name} PRIVATE ${here} ${simt}
    ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/host
    ${CMAKE_SOURCE_DIR}/probes ${CMAKE_SOURCE_DIR}/kernels)
  target_include_directories(${name} SYSTEM PRIVATE ${KS_CUDA_INCLUDE}
    ${JANSSON_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${SIMT_FLAGS}> -Wno-shadow
    -Wno-format-zero-length -Wno-missing-field-initializers)
  # Test data: from the bundle's folder, where run stands.
  target_compile_definitions(${name} PRIVATE _GNU_SOURCE SIMT_BUILD="${build}"
    KS_TEST_DATA="data" KS_DEMO_MODEL="models/demo-a")
  set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON
    EXCLUDE_FROM_ALL ON BUILD_RPATH "" INSTALL_RPATH "")
  if(SIMT_CUBLASLT)
    target_compile_definitions(${name} PRIVATE SIMT_CUBLASLT)
  endif()
  target_link_libraries(${name} PRIVATE ${library} Threads::Threads
    ${CMAKE_DL_LIBS} rt)
endfunction()

# The objects of the simulated kernels are those of the tests' plain build.
set(objects $<TARGET_OBJECTS:simt_plain>)
foreach(source ${kernels})
  get_filename_component(family ${source} NAME_WE)
  list(APPEND objects $<TARGET_OBJECTS:${family}-kernels-plain>)
endforeach()
set(library keystep) # the one without kernels of its own
if(TARGET keystep_host)
  set(library keystep_host)
endif()
gpu_check_program(gpu-check-sim ${library} plain ${here}/device_control.cpp
  ${objects})
if(SIMT_CUBLASLT)
  add_dependencies(gpu-check-sim ksblaslt-sim-plain)
endif()
target_compile_definitions(gpu-check-sim PRIVATE KS_WRAPPED)
foreach(knob simulated set_devices set_capability set_driver fail_devices
    set_memory fail_next_sync launches)
  target_link_options(gpu-check-sim PRIVATE LINKER:--wrap=simt_${knob})
endforeach()

if(NOT KS_CUDA_OBJECTS)
  message(STATUS "gpu-check: no CUDA backend in this build: simulated only")
  return()
endif()
# Linked with the kernels that keystep ships; the tests' own are compiled here.
list(REMOVE_ITEM kernels ${families})
set(objects)
foreach(source ${kernels})
  ks_nvcc_object(object ${source} -I${simt} -I${CMAKE_SOURCE_DIR}/tests
    -I${CMAKE_SOURCE_DIR}/probes)
  list(APPEND objects ${object})
endforeach()
gpu_check_program(gpu-check-cuda keystep gpu ${here}/device_control.cpp
  ${objects})
