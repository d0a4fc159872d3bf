#!/bin/sh
# Run make targets in a step of the pipeline, or anywhere: `sh infra/delivery/pipeline.sh test`. What the step's image
# lacks is installed first; what earlier steps put into .tools/ (Terraform, the deployed runtime's Python) is found.
set -eu
cd "$(dirname "$0")/../.."
for folder in "$PWD/.tools/bin" "$PWD"/.tools/python/*/bin; do
    [ ! -d "$folder" ] || PATH="$folder:$PATH"
done
export PATH
packages=""
command -v make >/dev/null || packages="$packages make"
command -v git >/dev/null || packages="$packages git"
command -v java >/dev/null || packages="$packages default-jre-headless" # Google's emulators need it
if [ -n "$packages" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of names
    apt-get install -qq -y --no-install-recommends $packages
fi
exec make "$@"
