#!/bin/bash
# The L7 benchmark of weft-waypoint, with Envoy fetched where ENVOY names none. See waypoint.py.
set -u
cd "$(dirname "$0")/../.." || exit 1
mesh_die() {
	echo "$*" >&2
	exit 1
}
. test/lib/envoy.sh
envoy_need
export ENVOY
exec python3 test/bench/waypoint.py
