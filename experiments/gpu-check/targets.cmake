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

set(library keystep) # the one without kernels of its own
if(TARGET keystep_host)
  set(library keystep_host)
endif()

function(gpu_check_program name build)
  add_executable(${name} ${here}/main.cpp ${here}/runner.cpp ${here}/bench.cpp
    ${tests} ${cli} ${ARGN})
  target_include_directories(${name} BEFORE PRIVATE ${here}/shim)
  target_include_directories(${name} PRIVATE ${here} ${simt}
    ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/host
    ${CMAKE_SOURCE_DIR}/probes ${CMAKE_SOURCE_DIR}/kernels)
  target_include_directories(${name} SYSTEM PRIVATE ${KS_CUDA_INCLUDE}
    ${JANSSON_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${SIMT_FLAGS}> -Wno-shadow
    -Wno-format-zero-length)
  # Test data: from the bundle's folder, where run stands.
  target_compile_definitions(${name} PRIVATE _GNU_SOURCE SIMT_BUILD="${build}"
    KS_TEST_DATA="data")
  set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON
    EXCLUDE_FROM_ALL ON BUILD_RPATH "" INSTALL_RPATH "")
  if(SIMT_CUBLASLT)
    target_compile_definitions(${name} PRIVATE SIMT_CUBLASLT)
  endif()
  target_link_libraries(${name} PRIVATE ${library} Threads::Threads
    ${CMAKE_DL_LIBS} rt)
endfunction()

set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)
add_library(gpu-check-kernels OBJECT EXCLUDE_FROM_ALL ${kernels})
target_compile_options(gpu-check-kernels PRIVATE ${SIMT_FLAGS})
target_include_directories(gpu-check-kernels PRIVATE ${simt}
  ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/host
  ${CMAKE_SOURCE_DIR}/kernels ${CMAKE_SOURCE_DIR}/probes)
target_include_directories(gpu-check-kernels SYSTEM PRIVATE ${KS_CUDA_INCLUDE}
  ${JANSSON_INCLUDE_DIRS})
target_compile_definitions(gpu-check-kernels PRIVATE SIMT_BUILD="plain")
gpu_check_program(gpu-check-sim plain $<TARGET_OBJECTS:gpu-check-kernels>
  $<TARGET_OBJECTS:simt_plain>)

get_filename_component(toolkit ${KS_CUDA_INCLUDE} DIRECTORY)
find_library(KS_CUDART_STATIC libcudart_static.a HINTS ${toolkit}/lib64
  ${toolkit}/lib ${toolkit}/targets/x86_64-linux/lib)
if(NOT KS_NVCC OR NOT KS_CUDART_STATIC)
  message(STATUS "gpu-check: no nvcc or libcudart_static.a: simulated only")
  return()
endif()
set(KS_GPU_ARCHS "80;86;89;90a;100;120" CACHE STRING
  "architectures of the bundle")
set(codes)
foreach(arch ${KS_GPU_ARCHS})
  list(APPEND codes -gencode arch=compute_${arch},code=sm_${arch})
endforeach()
# For what is not in the list: the driver compiles.
list(APPEND codes -gencode arch=compute_80,code=compute_80)
set(includes)
foreach(folder ${CMAKE_SOURCE_DIR}/host ${CMAKE_SOURCE_DIR}/kernels
    ${CMAKE_SOURCE_DIR}/probes ${simt} ${JANSSON_INCLUDE_DIRS})
  list(APPEND includes -I${folder})
endforeach()
set(objects)
foreach(source ${kernels})
  get_filename_component(stem ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/gpu-check-${stem}.o)
  add_custom_command(OUTPUT ${object} DEPENDS ${source}
    COMMAND ${KS_NVCC} -std=c++17 -O3 -Xcompiler -fPIC ${codes} ${includes}
      -MD -MF ${object}.d -c -o ${object} ${source}
    DEPFILE ${object}.d COMMENT "nvcc ${stem}.cu" VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON
    GENERATED ON)
  list(APPEND objects ${object})
endforeach()
gpu_check_program(gpu-check-cuda gpu ${here}/device_control.cpp ${objects})
target_link_libraries(gpu-check-cuda PRIVATE ${KS_CUDART_STATIC})
