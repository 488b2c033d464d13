# commit.h: what the program was built from. A script of its own, so that every
# build asks, and nothing is compiled anew where the answer is the same.
#   cmake -DSOURCE=... -DOUT=.../commit.h -P commit.cmake
set(commit none)
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD
  OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
  RESULT_VARIABLE failed)
if(NOT failed)
  execute_process(COMMAND git -C ${SOURCE} diff --quiet HEAD -- . :!results
    RESULT_VARIABLE changed OUTPUT_QUIET ERROR_QUIET)
  set(commit ${found})
  if(changed)
    string(APPEND commit " with uncommitted changes")
  endif()
endif()
file(WRITE ${OUT}.new "#define KS_COMMIT \"${commit}\"\n")
execute_process(COMMAND ${CMAKE_COMMAND} -E copy_if_different ${OUT}.new ${OUT})
file(REMOVE ${OUT}.new)
