#!/usr/bin/env python3
"""Envoy's messages as facts: writes xds/proto/{envoy,xds,...}/*.proto (proto2, all fields of every message that a root
reaches) and xds/rules.def (value rules) from the descriptors of PyPI's xds-protos. --check compares instead of writing.
usage: gen.py [--check] ROOT-OF-TREE      needs: pip install xds-protos protobuf"""
import importlib, os, pkgutil, sys
from importlib.metadata import version
from google.protobuf import descriptor_pool, descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor as F

ROOTS = [l.split('#')[0].strip() for l in open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'roots.txt'))]
ROOTS = [r for r in ROOTS if r]
WELL = 'google/protobuf/'


def load(package):
    m = importlib.import_module(package)
    for i in pkgutil.walk_packages(m.__path__, package + '.', onerror=lambda n: None):
        if i.name.endswith('_pb2'):
            try:
                importlib.import_module(i.name)
            except Exception:  # a file that names one this wheel does not ship
                pass


for p in ('envoy', 'xds', 'udpa', 'validate'):
    load(p)
from validate import validate_pb2
from udpa.annotations import status_pb2, migrate_pb2
from envoy.annotations import deprecation_pb2
pool = descriptor_pool.Default()
VER = 'xds-protos ' + version('xds-protos')


def top(d):
    while d.containing_type is not None:
        d = d.containing_type
    return d


want, order = set(), []


def need(d):
    d = top(d)
    if d.file.name.startswith(WELL) or d.full_name in want:
        return
    want.add(d.full_name)
    order.append(d)
    if hasattr(d, 'fields'):
        walk(d)


def walk(d):
    for f in d.fields:
        if f.message_type is not None:
            need(f.message_type)
        if f.enum_type is not None:
            need(f.enum_type)
    for n in d.nested_types:
        walk(n)


for r in ROOTS:
    try:
        need(pool.FindMessageTypeByName(r))
    except KeyError:
        sys.exit('roots.txt: %s: not in %s' % (r, VER))

SCALAR = {F.TYPE_DOUBLE: 'double', F.TYPE_FLOAT: 'float', F.TYPE_INT64: 'int64', F.TYPE_UINT64: 'uint64', F.TYPE_INT32: 'int32',
          F.TYPE_FIXED64: 'fixed64', F.TYPE_FIXED32: 'fixed32', F.TYPE_BOOL: 'bool', F.TYPE_STRING: 'string', F.TYPE_BYTES: 'bytes',
          F.TYPE_UINT32: 'uint32', F.TYPE_SFIXED32: 'sfixed32', F.TYPE_SFIXED64: 'sfixed64', F.TYPE_SINT32: 'sint32', F.TYPE_SINT64: 'sint64'}
imports = {}


def tname(t, f):
    if t.file.name != f.file.name:
        imports.setdefault(f.file.name, set()).add(t.file.name)
    return '.' + t.full_name


def ftype(f):
    if f.message_type is not None:
        return tname(f.message_type, f)
    if f.enum_type is not None:
        return tname(f.enum_type, f)
    return SCALAR[f.type]


def fdecl(f, label):
    dep = ' [deprecated = true]' if f.GetOptions().deprecated else ''
    if f.message_type is not None and f.message_type.GetOptions().map_entry:
        k, v = f.message_type.fields_by_name['key'], f.message_type.fields_by_name['value']
        return 'map<%s, %s> %s = %d%s;' % (ftype(k), ftype(v), f.name, f.number, dep)
    return '%s%s %s = %d%s;' % (label, ftype(f), f.name, f.number, dep)


def enum_text(e, ind):
    out = [ind + 'enum %s {' % e.name]
    if e.GetOptions().allow_alias:
        out.append(ind + '  option allow_alias = true;')
    for v in e.values:
        out.append(ind + '  %s = %d%s;' % (v.name, v.number, ' [deprecated = true]' if v.GetOptions().deprecated else ''))
    return out + [ind + '}']


def msg_text(d, ind):
    out = [ind + 'message %s {' % d.name]
    i2 = ind + '  '
    for e in d.enum_types:
        out += enum_text(e, i2)
    for n in d.nested_types:
        if not n.GetOptions().map_entry:
            out += msg_text(n, i2)
    done = set()
    for f in sorted(d.fields, key=lambda x: x.number):
        o = f.containing_oneof
        if o is not None and not (len(o.fields) == 1 and o.name.startswith('_')):
            if o.name not in done:
                done.add(o.name)
                out.append(i2 + 'oneof %s {' % o.name)
                out += [i2 + '  ' + fdecl(g, '') for g in sorted(o.fields, key=lambda x: x.number)]
                out.append(i2 + '}')
            continue
        rep = f.is_repeated if hasattr(f, 'is_repeated') else f.label == F.LABEL_REPEATED
        out.append(i2 + fdecl(f, 'repeated ' if rep else 'optional '))
    return out + [ind + '}']


files = {}
for d in order:
    files.setdefault(d.file.name, []).append(d)
texts = {}
for name, ds in sorted(files.items()):
    body = []
    for d in sorted(ds, key=lambda x: x.name):
        body += msg_text(d, '') if hasattr(d, 'fields') else enum_text(d, '')
    imp = set()
    for i in imports.get(name, ()):
        imp.add('xds/proto/wellknown.proto' if i.startswith(WELL) else 'xds/proto/' + i)
    text = '// %s, of %s: every field of the messages that configuration reaches. Written by test/protos/gen.py.\n' % (name, VER)
    text += 'syntax = "proto2";\npackage %s;\n' % ds[0].file.package
    text += 'import "protobuf-c/protobuf-c.proto";\noption (pb_c_file).gen_pack_helpers = false;\noption (pb_c_file).gen_init_helpers = false;\n'
    text += ''.join('import "%s";\n' % i for i in sorted(imp))
    texts['xds/proto/' + name] = text + '\n'.join(body) + '\n'

# ---- value rules
lines = []


def dur(d):
    return d.seconds * 1000 + d.nanos // 1000000


def num(n):
    return repr(int(n)) if float(n) == int(n) else repr(float(n))


def one(msg, path, r, kinds):
    for k in kinds:
        if not r.HasField(k):
            continue
        c = getattr(r, k)
        for fd, v in c.ListFields():
            n = fd.name
            if k == 'message' and n == 'required':
                if v:
                    lines.append((msg, path, 'REQUIRED', '0', ''))
            elif k == 'enum' and n == 'defined_only':
                lines.append((msg, path, 'DEFINED', '0', ''))
            elif k == 'enum' and n == 'not_in':
                lines.extend((msg, path, 'NOT_IN', str(x), '') for x in v)
            elif k == 'duration' and n == 'required' and v:
                lines.append((msg, path, 'REQUIRED', '0', ''))
            elif k == 'duration' and n in ('gt', 'gte', 'lt', 'lte'):
                lines.append((msg, path, 'DUR_' + n.upper(), '%d' % (v.seconds * 1000000000 + v.nanos), ''))
            elif k in ('string', 'bytes') and n in ('min_len', 'min_bytes'):
                lines.append((msg, path, 'MIN_LEN', str(v), ''))
            elif k in ('string', 'bytes') and n in ('max_len', 'max_bytes'):
                lines.append((msg, path, 'MAX_LEN', str(v), ''))
            elif k == 'string' and n == 'well_known_regex':
                lines.append((msg, path, 'HEADER_NAME' if v == 1 else 'HEADER_VALUE', '1' if (not c.HasField('strict') or c.strict) else '0', ''))
            elif k == 'string' and n in ('prefix', 'suffix', 'not_contains', 'contains'):
                lines.append((msg, path, n.upper(), '0', v))
            elif k == 'string' and n == 'pattern':
                lines.append((msg, path, 'PATTERN', '0', v))
            elif k == 'string' and n == 'in':
                lines.append((msg, path, 'ONE_OF', '0', ' '.join(v)))
            elif k == 'any' and n == 'required' and v:
                lines.append((msg, path, 'REQUIRED', '0', ''))
            elif k == 'any' and n == 'in':
                lines.append((msg, path, 'ANY_OF', '0', ' '.join(v)))
            elif k == 'repeated' and n in ('min_items', 'max_items'):
                lines.append((msg, path, n.upper(), str(v), ''))
            elif k == 'repeated' and n == 'unique' and v:
                lines.append((msg, path, 'UNIQUE', '0', ''))
            elif k == 'repeated' and n == 'items':
                one(msg, path + '[]', v, ALL)
            elif k == 'map' and n in ('min_pairs', 'max_pairs'):
                lines.append((msg, path, n.replace('pairs', 'items').upper(), str(v), ''))
            elif k == 'map' and n == 'keys':
                one(msg, path + '{key}', v, ALL)
            elif k == 'map' and n == 'values':
                one(msg, path + '[]', v, ALL)
            elif n in ('gt', 'gte', 'lt', 'lte', 'const') and not hasattr(v, 'seconds'):
                lines.append((msg, path, n.upper(), num(v), ''))
            elif n in ('ignore_empty', 'strict', 'ignore_case', 'in', 'not_in', 'uri', 'uri_ref', 'ip', 'email', 'skip'):
                if n == 'ignore_empty':
                    lines.append((msg, path, 'IGNORE_EMPTY', '0', ''))
            else:
                print('rule not carried: %s.%s %s.%s = %s' % (msg, path, k, n, str(v).replace('\n', ' ')), file=sys.stderr)


ALL = ('message', 'enum', 'duration', 'string', 'bytes', 'any', 'repeated', 'map', 'float', 'double', 'int32', 'int64', 'uint32', 'uint64',
       'sint32', 'sint64', 'fixed32', 'fixed64')


def rules(d):
    for n in d.nested_types:
        if not n.GetOptions().map_entry:
            rules(n)
    for o in d.oneofs:
        if o.GetOptions().Extensions[validate_pb2.required]:
            lines.append((d.full_name, o.name, 'ONEOF', '0', ' '.join(f.name for f in o.fields)))
    for f in d.fields:
        if f.GetOptions().HasExtension(validate_pb2.rules):
            one(d.full_name, f.name, f.GetOptions().Extensions[validate_pb2.rules], ALL)


for d in order:
    if hasattr(d, 'fields'):
        rules(d)
lines = sorted(set(lines), key=lambda x: (x[0], x[1], x[2] != 'IGNORE_EMPTY', x[2], x[3]))
q = lambda s: '"' + s.replace('\\', '\\\\').replace('"', '\\"').replace('\0', '\\0').replace('\n', '\\n').replace('\r', '\\r') + '"'
texts['xds/rules.def'] = ('/* RULE(message, field, kind, number, text): value rules of %s. "field[]": each item; "field{key}": each key of a map;\n'
                          ' * ONEOF: the text names the members.'
                          ' DUR_ numbers are nanoseconds. Written by test/protos/gen.py. */\n' % VER +
                          ''.join('RULE(%s, %s, %s, %s, %s)\n' % (q(m), q(p), k, n, q(t)) for m, p, k, n, t in lines))



# ---- types an Any may name, with the descriptors' C names
def lower(s):
    out, up = '', True
    for c in s:
        if c.isupper():
            out += ('' if up else '_') + c.lower()
        else:
            out += c
        up = c.isupper()
    return out


WELL_KNOWN = ['Any', 'BoolValue', 'BytesValue', 'DoubleValue', 'Duration', 'Empty', 'FloatValue', 'Int32Value', 'Int64Value', 'ListValue',
              'StringValue', 'Struct', 'Timestamp', 'UInt32Value', 'UInt64Value', 'Value']
OWN = ['weft.waypoint.Hbone']  # xds/proto/waypoint.proto
types = sorted(ROOTS + OWN + ['google.protobuf.' + w for w in WELL_KNOWN])
texts['xds/any_types.def'] = ('/* ANY_TYPE(message, descriptor): what a google.protobuf.Any may hold, by name. test/protos/roots.txt and the well-known\n'
                              ' * types. Written by test/protos/gen.py. */\n' +
                              ''.join('ANY_TYPE("%s", %s__descriptor)\n' % (t, '__'.join(lower(x) for x in t.split('.'))) for t in types))

if __name__ == '__main__':
    check = '--check' in sys.argv
    root = [a for a in sys.argv[1:] if a != '--check'][0]
    bad = 0
    for name, text in texts.items():
        p = os.path.join(root, name)
        if check:
            have = open(p).read() if os.path.exists(p) else None
            if have != text:
                print('%s: differs from %s' % (name, VER))
                bad += 1
        else:
            os.makedirs(os.path.dirname(p), exist_ok=True)
            open(p, 'w').write(text)
    print('%d files, %d messages, %d rules%s' % (len(texts), len(order), len(lines), ', %d differ' % bad if check else ''))
    sys.exit(1 if bad else 0)
