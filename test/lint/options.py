#!/usr/bin/env python3
"""Every field that is acted on (xds/coverage) is named in a unit test and in a scenario.

A name that stands there shows nothing by itself, but one that stands nowhere was not tried. Of bad values
test/unit/xds/fields_bad_test.c makes one for each field. -v: each file that names a field."""
import glob
import os
import re
import sys

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TRIED = {
    "unit test": ["test/unit/proxy/**/*.[ch]", "test/unit/xds/**/*.[ch]", "test/golden/waypoint/*.yaml"],
    # what the agent makes for waypoints is tried by the scenarios of gateways
    "scenario": ["test/scenario/**/*", "test/peers/**/*", "test/lib/*.py", "test/lib/*.sh", "test/lib/*.c", "test/demo/*", "agent/*.c"],
}


def acted():
    for path in sorted(glob.glob("xds/coverage/*.def")):
        with open(path, encoding="utf-8") as f:
            for message, fields in re.findall(r'ACTED\(\s*"([^"]+)"\s*,\s*((?:"[^"]*"\s*)+)\)', f.read()):
                for name in " ".join(re.findall(r'"([^"]*)"', fields)).split():
                    yield path, message, name


def words(patterns):
    found = {}
    for pattern in patterns:
        for path in glob.glob(pattern, recursive=True):
            if os.path.isfile(path) and not path.endswith(".pyc"):
                with open(path, encoding="utf-8", errors="replace") as f:
                    for w in set(re.findall(r"\w+", f.read())):
                        found.setdefault(w, path)
    return found


bad = n = 0
have = {what: words(patterns) for what, patterns in TRIED.items()}
for path, message, name in acted():
    n += 1
    for what in TRIED:
        if name not in have[what]:
            bad += 1
            print("%s: %s.%s: in no %s" % (path, message, name, what))
        elif "-v" in sys.argv:
            print("%s: %s.%s: %s: %s" % (path, message, name, what, have[what][name]))
if not n:
    sys.exit("xds/coverage has no fields")
sys.exit(1 if bad else 0)
