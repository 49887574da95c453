#!/usr/bin/env bash
# limit: 120
# Filters and counters that workers share, under four workers at once: what each lets pass adds up to what one process may.
. test/lib/mesh.sh
mesh_need python3
exec /usr/bin/python3 test/peers/waypoint_workers.py
