# shellcheck shell=bash
# The product's binaries and the test tools from crates.io, built once and kept in the user's cache.

DURDIR=$CARGO_TARGET_DIR/release/durdir
MOUNTD=$CARGO_TARGET_DIR/release/mountd

need_cargo() {
    command -v cargo >/dev/null || die "no cargo on this machine: install Rust 1.88 or newer (https://rustup.rs)"
}

# The first build shows its progress, a rebuild is quiet.
build() {
    install_packages "${BUILD_PACKAGES[@]}"
    need_cargo
    local quiet=(--quiet)
    if [ ! -x "$DURDIR" ]; then
        note "building durdir; RocksDB alone takes 15 to 20 minutes on two cores the first time"
        quiet=()
    fi
    (cd "$REPO" && cargo build --release --locked "${quiet[@]}" --workspace --bins)
    if [ ! -x "$DURDIR" ] || [ ! -x "$MOUNTD" ]; then
        die "the build produced no durdir and mountd in $CARGO_TARGET_DIR/release"
    fi
    export PATH=$CARGO_TARGET_DIR/release:$PATH
}

# install_tool CRATE VERSION: a program from crates.io, into the cache, outside the workspace's own lock file.
install_tool() {
    local crate=$1 version=$2
    if [ -x "$TOOLS/bin/$crate" ] && grep -qF "\"$crate $version " "$TOOLS/.crates.toml" 2>/dev/null; then
        return 0
    fi
    need_cargo
    note "building $crate $version"
    # In a directory of its own: the workspace's .cargo/config.toml must not decide how a tool is compiled.
    (cd / && CARGO_TARGET_DIR=$TOOLS/target quietly cargo install --quiet --locked --root "$TOOLS" --version "=$version" "$crate")
}
