# setup.sh - sourced by ./demo and ./check: says what it does, installs what is
# missing through apt, builds. POSIX sh. Sets nothing else.

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# What a build needs, and what the tests need on top.
BUILD_PACKAGES="gcc libc6-dev cmake ninja-build pkg-config
libopenblas-openmp-dev liblapacke-dev libhdf5-dev libjansson-dev libpcre2-dev
libutf8proc-dev libgmp-dev libssl-dev libgsl-dev liblinear-dev"
TEST_PACKAGES="libcriterion-dev"
# Heavy parts that only some tests need: ./check --all.
ALL_PACKAGES="clang-14 clang-format-14 clang-tidy-14 python3 python3-venv
python3-numpy python3-h5py hdf5-tools gdb"

have_package() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# ensure PACKAGE...: installs those that are missing.
ensure() {
    missing=
    if ! command -v dpkg-query >/dev/null 2>&1; then
        say "this is not Debian or Ubuntu; the build needs the equivalents of:"
        printf '   %s\n' "$*" >&2
        say "going on in the hope that they are there"
        return 0
    fi
    for package in "$@"; do
        have_package "$package" || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    say "installing with apt-get:$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            die "not root and no sudo; run as root: apt-get install$missing"
        as_root=sudo
    fi
    # shellcheck disable=SC2086 # a list of words is meant
    if ! $as_root apt-get -qq -o Dpkg::Use-Pty=0 install -y \
        --no-install-recommends $missing >/dev/null 2>&1; then
        $as_root apt-get -qq update
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq \
            -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing \
            >/dev/null || die "apt-get could not install:$missing"
    fi
}

# build PRESET [TARGET...]: configures once, and again when Criterion came after
# that, so that ./check has its tests after ./demo; then builds quietly.
build() {
    preset=$1
    shift
    if [ ! -f "build/$preset/build.ninja" ] ||
        { [ ! -d "build/$preset/tests" ] && pkg-config --exists criterion; }; then
        say "configuring build/$preset"
        cmake --preset "$preset" -G Ninja >"/tmp/keystep-configure.$$" 2>&1 || {
            cat "/tmp/keystep-configure.$$" >&2
            rm -f "/tmp/keystep-configure.$$"
            die "configuring failed"
        }
        rm -f "/tmp/keystep-configure.$$"
    fi
    say "building build/$preset"
    if [ $# -gt 0 ]; then set -- --target "$@"; fi
    cmake --build "build/$preset" "$@" >"/tmp/keystep-build.$$" 2>&1 || {
        tail -n 60 "/tmp/keystep-build.$$" >&2
        rm -f "/tmp/keystep-build.$$"
        die "the build failed"
    }
    rm -f "/tmp/keystep-build.$$"
}
