#!/usr/bin/env bash
# Makes what is handed out, in dist/: archives with the programs, Debian packages, a list of all that is in each program (SBOM,
# CycloneDX), and checksums.
#
#   deploy/release.sh                   build for this machine, then pack
#   deploy/release.sh --target TARGET   build for another one, for example x86_64-unknown-linux-musl (static) or
#                                       aarch64-unknown-linux-musl (static, 64-bit ARM)
#   deploy/release.sh --no-build        pack what the target directory has: space-agent, ground-station and perigee-man
#
# It needs cargo-deb and cargo-cyclonedx (cargo install --locked cargo-deb cargo-cyclonedx) and dpkg-dev. DIST names another folder.
# A target needs its standard library (rustup target add TARGET) and a C compiler: musl-gcc (Debian: musl-tools) for x86-64,
# aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu) for ARM, or what CC_TARGET names, TARGET with _ for each -.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
dist=$(realpath -m "${DIST:-dist}")
programs=(space-agent ground-station)
export CARGO_TARGET_DIR=$target
# The same commit gives the same archives.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

fail() {
    echo "release.sh: $*" >&2
    exit 1
}
for tool in cargo-deb cargo-cyclonedx; do
    command -v $tool >/dev/null || fail "$tool is missing: cargo install --locked $tool"
done
host=$(rustc -vV | sed -n 's/^host: //p')
for_target=$host
build=1
while [ $# -gt 0 ]; do
    case $1 in
    --no-build) build= ;;
    --target) for_target=${2:?--target needs a target}; shift ;;
    *) fail "unknown argument $1" ;;
    esac
    shift
done
# What Cargo and cargo-deb are told, and where the programs are then.
cross=()
release=$target/release
if [ "$for_target" != "$host" ]; then
    cross=(--target "$for_target")
    release=$target/$for_target/release
    [ -d "$(rustc --print target-libdir --target "$for_target")" ] ||
        fail "the standard library for $for_target is missing: rustup target add $for_target"
    name=${for_target//-/_}
    compiler=CC_$name linker=CARGO_TARGET_${name^^}_LINKER
    case $for_target in
    x86_64-unknown-linux-musl) export "$compiler=${!compiler:-musl-gcc}" ;;
    aarch64-unknown-linux-*)
        export "$compiler=${!compiler:-aarch64-linux-gnu-gcc}"
        export "$linker=${!linker:-${!compiler}}"
        # Kernels for ARM have pages of 4, 16 or 64 KiB; jemalloc runs with those up to the one that it was built for.
        export JEMALLOC_SYS_WITH_LG_PAGE=${JEMALLOC_SYS_WITH_LG_PAGE:-16}
        ;;
    esac
    [ -z "${!compiler:-}" ] || command -v "${!compiler}" >/dev/null || fail "${!compiler} is missing; $compiler names another C compiler"
fi
if [ $build ]; then
    cargo build --locked --release "${cross[@]}" -p space-agent -p ground-station
    cargo build --locked -p perigee-man
fi
for program in "$release/space-agent" "$release/ground-station" "$target/debug/perigee-man"; do
    [ -x "$program" ] || fail "$program is missing: run without --no-build"
done

rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# A program for another machine may not run here.
if found=$("$release/space-agent" --version 2>/dev/null); then
    [ "$found" = "space-agent $version" ] || fail "$release/space-agent is $found, not version $version"
elif [ "$for_target" = "$host" ]; then
    fail "$release/space-agent does not run"
fi

# Where the packages' assets look for them.
man=$release/man
rm -rf "$man"
"$target/debug/perigee-man" "$man"

for program in "${programs[@]}"; do
    side=${program%-station}
    folder=$work/$program-$version-$for_target
    mkdir -p "$folder/man1" "$folder/completions"
    cp "$release/$program" LICENSE CHANGELOG.md "deploy/config/${side#space-}.yaml" "$folder/"
    cp "$man/man1/$program"*.1 "$folder/man1/"
    cp "$man/completions/"{"$program.bash","_$program","$program.fish"} "$folder/completions/"
    tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c "${folder##*/}" |
        gzip -9n >"$dist/${folder##*/}.tar.gz"
done

gzip -9nf "$man"/man1/*.1
for program in "${programs[@]}"; do
    # The release profile has stripped them.
    cargo deb --quiet --no-build --no-strip --locked "${cross[@]}" -p "$program" -o "$dist/" >/dev/null
done

# cargo-cyclonedx writes beside each Cargo.toml, so that it gets a copy of the tree. Its folder is nobody's business.
mkdir "$work/src"
git ls-files -z | xargs -0 cp -P --parents -t "$work/src"
for program in "${programs[@]}"; do
    (cd "$work/src" && cargo cyclonedx -q --manifest-path "$program/Cargo.toml" --format json --spec-version 1.5 \
        --no-build-deps --target "$for_target" --override-filename sbom)
    sed "s|$work/src|/src|g" "$work/src/$program/sbom.json" >"$dist/$program-$version${cross:+-$for_target}.cdx.json"
done

(cd "$dist" && sha256sum -- * >SHA256SUMS)
cat "$dist/SHA256SUMS"
