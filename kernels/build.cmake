# The CUDA backend with nvcc. Sets KS_CUDA_OBJECTS, KS_CUDA_LINK and
# KS_CUDA_BUILT ("sm_80 sm_86"); all are empty where it is left out. The runtime
# is linked in, statically: it looks for libcuda itself, so the program starts
# where there is no driver.
set(KS_CUDA AUTO CACHE STRING "the CUDA backend: AUTO (where nvcc is), ON, OFF")
set_property(CACHE KS_CUDA PROPERTY STRINGS AUTO ON OFF)
set(KS_CUDA_ARCHS "80;86;89;90a;100;120" CACHE STRING
  "compute capabilities to build for, those that nvcc knows")
set(KS_CUDA_FLAGS "" CACHE STRING "further options of nvcc, ;-separated")
set(KS_CUDA_OBJECTS)
set(KS_CUDA_LINK)
set(KS_CUDA_BUILT)
if(NOT KS_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "KS_CUDA is ${KS_CUDA}: AUTO, ON or OFF")
endif()
if(KS_CUDA STREQUAL "OFF")
  return()
endif()

find_program(KS_NVCC nvcc HINTS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
if(KS_NVCC)
  get_filename_component(KS_CUDA_HOME ${KS_NVCC} REALPATH)
  get_filename_component(KS_CUDA_HOME ${KS_CUDA_HOME} DIRECTORY)
  find_library(KS_CUDART libcudart_static.a
    HINTS ${KS_CUDA_HOME}/.. ${KS_CUDA_HOME}/../targets/x86_64-linux
    PATH_SUFFIXES lib64 lib)
endif()
foreach(need KS_NVCC KS_CUDART)
  if(NOT ${need})
    if(KS_CUDA STREQUAL "ON")
      message(FATAL_ERROR "KS_CUDA is ON, but there is no CUDA toolkit: "
        "${need} can name its nvcc (KS_NVCC) or libcudart_static.a (KS_CUDART)")
    endif()
    message(STATUS "CUDA backend left out: no nvcc (${need})")
    return()
  endif()
endforeach()

execute_process(COMMAND ${KS_NVCC} --list-gpu-code OUTPUT_VARIABLE known)
string(REGEX MATCHALL "sm_[0-9]+" known "${known}")
set(codes)
set(built)
foreach(arch ${KS_CUDA_ARCHS})
  string(REGEX REPLACE "[a-z]$" "" plain ${arch}) # nvcc lists no sm_90a
  if(NOT sm_${plain} IN_LIST known)
    message(STATUS "CUDA backend: this nvcc knows no sm_${arch}")
    continue()
  endif()
  list(APPEND codes -gencode arch=compute_${arch},code=sm_${arch})
  # Later devices compile the first one's PTX themselves.
  if(NOT built AND plain STREQUAL arch)
    list(APPEND codes -gencode arch=compute_${arch},code=compute_${arch})
  endif()
  list(APPEND built sm_${arch})
endforeach()
if(NOT built)
  message(FATAL_ERROR "KS_CUDA_ARCHS is '${KS_CUDA_ARCHS}'; this nvcc knows: "
    "${known}")
endif()
list(JOIN built " " KS_CUDA_BUILT)
message(STATUS "CUDA backend: ${KS_CUDA_BUILT} (${KS_NVCC})")

# nvcc's own stubs hold local statics: without guards nothing needs libstdc++.
set(flags -std=c++17 -O3 ${codes} -I${CMAKE_SOURCE_DIR}/host
  -I${CMAKE_SOURCE_DIR}/kernels
  -Xcompiler=-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti
  -Xcompiler=-fno-threadsafe-statics ${KS_CUDA_FLAGS})
foreach(folder ${JANSSON_INCLUDE_DIRS})
  list(APPEND flags -I${folder})
endforeach()
if(KS_WERROR)
  list(APPEND flags -Werror=all-warnings)
endif()
set(KS_NVCC_COMMAND ${CMAKE_C_COMPILER_LAUNCHER} ${KS_NVCC} ${flags})

# The object of a CUDA source; further options are nvcc's. Rules are of the
# folder that calls.
function(ks_nvcc_object result source)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
  add_custom_command(OUTPUT ${object}
    COMMAND ${KS_NVCC_COMMAND} ${ARGN} -MD -MF ${object}.d -c ${source}
      -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d
    COMMENT "Building CUDA object ${name}.o" VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE
    GENERATED TRUE)
  set(${result} ${object} PARENT_SCOPE)
endfunction()

file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.cu)
foreach(source ${sources})
  ks_nvcc_object(object ${source})
  list(APPEND KS_CUDA_OBJECTS ${object})
endforeach()
add_custom_target(ks_cuda_objects DEPENDS ${KS_CUDA_OBJECTS})
set(KS_CUDA_LINK ${KS_CUDART} rt ${CMAKE_DL_LIBS})
