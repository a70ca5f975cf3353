#!/bin/bash -eu
# Builds all targets for ClusterFuzzLite, each with its corpus and the dictionary.
cd "$SRC/fila-clients-rust"
# As fuzz/build: quick to build, and assertions and overflow checks are part of what is looked for. Link-time optimisation
# of so many programs takes longer than a build may.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
cargo fuzz build --release --debug-assertions
binaries="${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release"
for source in fuzz/fuzz_targets/*.rs; do
    target="$(basename "$source" .rs)"
    cp "$binaries/$target" "$OUT/"
    cp fuzz/dictionary "$OUT/$target.dict"
    zip -qj "$OUT/${target}_seed_corpus.zip" "fuzz/corpus/$target"/*
done
