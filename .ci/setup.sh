# shellcheck shell=sh disable=SC2034
# setup.sh - sourced by ./demo and ./check: says what it does, installs what is
# missing through apt, builds. POSIX sh. Sets nothing else.

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# What a build needs, and what the tests need on top.
BUILD_PACKAGES="gcc libc6-dev cmake ninja-build pkg-config
libopenblas-openmp-dev liblapacke-dev libhdf5-dev libjansson-dev libpcre2-dev
libutf8proc-dev libgmp-dev libssl-dev libgsl-dev liblinear-dev libzip-dev
libyaml-dev node-d3"
TEST_PACKAGES="libcriterion-dev"
# Heavy parts that only some tests need: ./check --all.
ALL_PACKAGES="g++ clang-14 libclang-rt-14-dev llvm-14 libomp-14-dev
clang-format-14 clang-tidy-14 python3 python3-venv python3-numpy python3-h5py
hdf5-tools gnuplot-nox chromium slurm-wlm munge debootstrap"

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
# Warnings stop a release build only with KS_WERROR=ON: another compiler than
# ours finds other ones, and who came to see the demo need not care. KS_CUDA_HOME
# names the CUDA toolkit to take, where it is not one that CMake finds.
build() {
    preset=$1
    shift
    log=/tmp/keystep-build.$$
    if [ ! -f "build/$preset/build.ninja" ] ||
        [ -n "${KS_WERROR:-}${KS_CUDA_HOME:-}" ] ||
        { [ ! -d "build/$preset/tests" ] && pkg-config --exists criterion; }; then
        say "configuring build/$preset"
        cmake --preset "$preset" -G Ninja \
            ${KS_WERROR:+"-DKS_WERROR=$KS_WERROR"} \
            ${KS_SIMT_COVER:+"-DKS_SIMT_COVER=$KS_SIMT_COVER"} \
            ${KS_NVCC_ARCHS:+"-DKS_NVCC_ARCHS=$KS_NVCC_ARCHS"} \
            ${KS_CUDA_HOME:+"-DKS_CUDA_INCLUDE=$KS_CUDA_HOME/include"} \
            ${KS_CUDA_HOME:+"-DKS_NVCC=$KS_CUDA_HOME/bin/nvcc"} \
            >"$log" 2>&1 || {
            cat "$log" >&2
            rm -f "$log"
            die "configuring failed"
        }
    fi
    say "building build/$preset"
    if [ $# -gt 0 ]; then set -- --target "$@"; fi
    cmake --build "build/$preset" "$@" >"$log" 2>&1 || {
        tail -n 60 "$log" >&2
        rm -f "$log"
        die "the build failed"
    }
    rm -f "$log"
}
