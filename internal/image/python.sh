set -eu
umask 022
venv=$1 system=$2 have=$3
mkdir -m 0700 "$have"
tar -x --no-same-owner -C "$have" -f -
if [ -e "$venv/pyvenv.cfg" ]; then
	if grep -q '^include-system-site-packages = true' "$venv/pyvenv.cfg"; then system=true; fi
elif [ -e "$venv" ] && [ -n "$(ls -A "$venv")" ]; then
	echo "E: $venv is there and is not a virtual environment" >&2; exit 1
fi
pip=
for wheel in /usr/share/python-wheels/pip-*.whl; do pip=$wheel; done
if ! [ -e "$pip" ] || ! /usr/bin/python3 -c 'import venv' 2>/dev/null; then echo "E: no venv" >&2; exit 1; fi
# Until all is installed it does not see the system's packages: pip would take those for
# installed, and nobody would have checked their hashes.
/usr/bin/python3 -m venv --without-pip "$venv"
python=$venv/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# What is fetched lies on the disk, since it may be larger than the memory.
export TMPDIR="$venv/.tmp"
mkdir "$TMPDIR"
compile=
if [ -s "$have/requirements.txt" ]; then
	# Only pip's log says why an index did not answer.
	"$python" "$pip/pip" install --log "$have/log" --require-hashes --no-deps --only-binary :all: --no-compile --no-cache-dir --no-input \
		--no-warn-script-location --root-user-action ignore --disable-pip-version-check --progress-bar off -r "$have/requirements.txt" || {
		grep -o 'Could not fetch URL .*' "$have/log" | grep -v '404 Client Error' | sort -u | head -n 3 | sed 's/^/ERROR: /' >&2
		exit 1
	}
	compile=$site
fi
if [ -d "$have/modules" ]; then
	for module in "$have/modules"/*; do
		to=$site/${module##*/}
		rm -rf "$to"
		cp -rp "$module" "$to"
		if [ "$compile" != "$site" ]; then compile="$compile $to"; fi
	done
fi
if [ "$system" = true ]; then
	sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' "$venv/pyvenv.cfg"
fi
if [ -s "$have/requirements.txt" ]; then
	echo "I: check"
	"$python" "$pip/pip" check --disable-pip-version-check || true
fi
echo "I: compile"
# All cores, since everybody waits for what is not compiled; a file that no Python can
# compile is its package's own business.
"$python" -m compileall -q -q -j 0 $compile || true
rm -rf "$TMPDIR"
