# commit.cmake - run by every build: writes OUT, a source with the commit that
# SOURCE is at, or leaves it as it is where that has not changed, so that
# nothing is compiled again. Uncommitted changes to what the program is made of
# add "-dirty". An archive that git made says its commit itself (commit.txt);
# where neither is known, it is "unknown".
set(commit unknown)
file(STRINGS ${SOURCE}/host/cli/commit.txt archived REGEX "^[0-9a-f]+$")
if(archived)
  string(SUBSTRING ${archived} 0 12 commit)
endif()

find_program(GIT git)
function(git result)
  execute_process(COMMAND ${GIT} -C ${SOURCE} ${ARGN}
    RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_QUIET
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(${result} "${said}" PARENT_SCOPE)
  set(failed "${failed}" PARENT_SCOPE)
endfunction()
if(GIT AND NOT archived)
  # Not the commit of another repository that these sources lie in.
  git(below rev-parse --show-prefix)
  if(failed STREQUAL 0 AND below STREQUAL "")
    git(head rev-parse --short=12 HEAD)
    git(changes --no-optional-locks status --porcelain --
      CMakeLists.txt host kernels probes)
    if(failed STREQUAL 0 AND NOT head STREQUAL "")
      set(commit ${head})
      if(changes)
        string(APPEND commit -dirty)
      endif()
    endif()
  endif()
endif()

set(text "/* Made by host/cli/commit.cmake. */
#include \"cli/build.h\"

const char *ks_build_commit(void) {
    return \"${commit}\";
}
")
set(have)
if(EXISTS ${OUT})
  file(READ ${OUT} have)
endif()
if(NOT have STREQUAL text)
  file(WRITE ${OUT} "${text}")
endif()
