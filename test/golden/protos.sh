#!/usr/bin/env bash
# limit: 180
# Envoy's messages and rules in xds/ are what the descriptors of the package xds-protos say, field for field.
set -u
cd "$(dirname "$0")/../.." || exit 1
VERSION=$(sed -n 's/.*value rules of xds-protos \([0-9.]*[0-9]\).*/\1/p' xds/rules.def)
WHERE=build/peers/protos
NAME="xds/proto, rules.def and any_types.def are those of xds-protos $VERSION"
echo 1..1
check() {
	PYTHONPATH=$WHERE python3 test/protos/gen.py --check . 2>&1
}
if [ ! -e "$WHERE/xds_protos-$VERSION.dist-info" ] &&
	! OUT=$(timeout 150 python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore --upgrade \
		--target "$WHERE" "xds-protos==$VERSION" protobuf 2>&1); then
	echo "ok 1 - $NAME # SKIP the PyPI package xds-protos $VERSION cannot be installed: $(echo "$OUT" | tail -1)"
	exit 0
fi
if OUT=$(check); then
	echo "ok 1 - $NAME"
else
	printf '%s\n' "$OUT" | sed 's/^/# /'
	echo "not ok 1 - $NAME"
	exit 1
fi
