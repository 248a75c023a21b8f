#!/bin/sh
# Installs Debian's package `chromium` and a font, for the tests of the dashboard (Playwright itself
# comes with the development environment). Where that is not possible it prints the reason and
# succeeds: those tests are skipped then.

skip() {
    echo "no Chromium: $1; the tests that need one are skipped"
    exit 0
}

for program in chromium chromium-browser chrome; do
    command -v "$program" >/dev/null && exit 0
done
command -v apt-get >/dev/null || skip "this system has no apt-get: install Chromium by hand"

as_root=""
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || skip "installing it needs root, and sudo asks for a password"
    as_root="sudo -n"
fi

echo "installing Debian's package chromium for the tests: silent for a minute"
limits="-o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60"
install="timeout 600 env DEBIAN_FRONTEND=noninteractive apt-get $limits --yes -qq --no-install-recommends install chromium fonts-dejavu-core"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$as_root $install >"$log" 2>&1 && exit 0
$as_root timeout 300 apt-get $limits -qq update >"$log" 2>&1
$as_root $install >>"$log" 2>&1 || skip "apt-get could not install it: $(grep '^E:' "$log" | tail -n 1)"
