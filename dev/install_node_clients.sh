#!/bin/sh
# Installs the clients of tests/node/package.json into build/node, for the tests that put them before
# a gateway, and Debian's packages `nodejs` and `npm` first where they are absent. Where that is not
# possible it prints the reason and succeeds: those tests are skipped then.

skip() {
    echo "no clients of Node: $1; the tests that need them are skipped"
    exit 0
}

list=tests/node/package.json
folder=build/node
cmp -s "$list" "$folder/.installed" && exit 0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

debian() {
    command -v apt-get >/dev/null || skip "this system has no apt-get: install Node.js and npm by hand"
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || skip "installing Node.js needs root, and sudo asks for a password"
        as_root="sudo -n"
    fi
    echo "installing Debian's packages nodejs and npm for the tests: silent for some minutes"
    limits="-o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60"
    install="timeout 600 env DEBIAN_FRONTEND=noninteractive apt-get $limits --yes -qq --no-install-recommends install nodejs npm"
    $as_root $install >"$log" 2>&1 && return
    $as_root timeout 300 apt-get $limits -qq update >"$log" 2>&1
    $as_root $install >>"$log" 2>&1 || skip "apt-get could not install it: $(grep '^E:' "$log" | tail -n 1)"
}

command -v node >/dev/null && command -v npm >/dev/null || debian
echo "installing the clients of $list into $folder: silent for a minute"
mkdir -p "$folder"
cp "$list" "$folder/package.json"
options="--no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error --fetch-retries=1 --fetch-timeout=120000"
timeout 900 npm install --prefix "$folder" $options >"$log" 2>&1 || skip "npm could not install them: $(grep -m 1 -i 'err' "$log")"
cp "$list" "$folder/.installed"
