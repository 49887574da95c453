#!/usr/bin/env python3
"""L7 benchmark: weft-waypoint, Envoy, nginx and HAProxy, one worker each, the same jobs in one run. Prints the table with
the targets of weft-waypoint beside; medians. All on loopback; ends only what it started.
env: BENCH_BIN folder of weft-waypoint, ENVOY binary, BENCH_REPS 3, BENCH_SECS 3, BENCH_JOBS comma list, BENCH_OUT json file"""
import json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

REPS, SECS = int(os.environ.get('BENCH_REPS', 3)), float(os.environ.get('BENCH_SECS', 3))
BIN = os.environ.get('BENCH_BIN', 'build/release')
ENVOY = os.environ.get('ENVOY', 'build/peers/envoy/_bin/envoy')
W = tempfile.mkdtemp(prefix='weft-bench-')
PROCS, TICK = [], os.sysconf('SC_CLK_TCK')
BACK = {}
CERT = {'pem': 'cert.pem', 'key': 'key.pem', 'both': 'both.pem'}
RSA = {'pem': 'rsa-cert.pem', 'key': 'rsa-key.pem', 'both': 'rsa-both.pem'}


def port():
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    p = s.getsockname()[1]
    s.close()
    return p


def write(name, text):
    path = os.path.join(W, name)
    with open(path, 'w') as f:
        f.write(text)
    return path


def spawn(args, log):
    p = subprocess.Popen(args, stdout=open(os.path.join(W, log), 'ab'), stderr=subprocess.STDOUT, cwd=W, start_new_session=True)
    PROCS.append(p)
    return p


def stop(p):
    try:
        os.killpg(p.pid, signal.SIGTERM)
        p.wait(5)
    except Exception:
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        p.wait()
    if p in PROCS:
        PROCS.remove(p)


def wait_port(p, t=10):
    end = time.time() + t
    while time.time() < end:
        try:
            socket.create_connection(('127.0.0.1', p), 1).close()
            return
        except OSError:
            time.sleep(0.002)
    raise SystemExit('port %d did not open; logs in %s' % (p, W))


def pids(p):
    """p and what it forked."""
    out, todo = [], [p.pid]
    while todo:
        x = todo.pop()
        out.append(x)
        try:
            for t in os.listdir('/proc/%d/task' % x):
                with open('/proc/%d/task/%s/children' % (x, t)) as f:
                    todo += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return out


def cpu(p):
    s = 0
    for x in pids(p):
        try:
            v = open('/proc/%d/stat' % x).read().rsplit(')', 1)[1].split()
            s += int(v[11]) + int(v[12])
        except OSError:
            pass
    return s / TICK


def rss(p, what='Pss'):
    """MB; Pss: what is shared is counted by its part."""
    s = 0
    for x in pids(p):
        try:
            m = re.search(r'^%s:\s+(\d+)' % what, open('/proc/%d/smaps_rollup' % x).read(), re.M)
            s += int(m.group(1))
        except (OSError, AttributeError):
            pass
    return s / 1024


# ---- the four proxies: in 'h1' | 'h1s' | 'h2' | 'h2s' | 'tcp', up 'h1' | 'h2' | 'tcp'
def envoy_like(inn, up, p, extra_filters='', routes=None, clusters=None):
    tls = ''
    if inn.endswith('s'):
        alpn = '"h2"' if inn == 'h2s' else '"http/1.1"'
        tls = ('"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.'
               'DownstreamTlsContext","common_tls_context":{"alpn_protocols":[%s],"tls_certificates":[{"certificate_chain":{"filename":"%s"},'
               '"private_key":{"filename":"%s"}}]}}},' % (alpn, W + '/' + CERT['pem'], W + '/' + CERT['key']))
    if inn == 'tcp':
        flt = ('{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",'
               '"stat_prefix":"t","cluster":"up"}}')
    else:
        flt = ('{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.'
               'HttpConnectionManager","stat_prefix":"h","codec_type":"%s","generate_request_id":false,"route_config":{"name":"r","virtual_hosts":[{"name":"v",'
               '"domains":["*"],"routes":[%s]}]},"http_filters":[%s{"name":"router","typed_config":{"@type":'
               '"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}' %
               ('HTTP2' if inn.startswith('h2') else 'HTTP1', routes or '{"match":{"prefix":"/"},"route":{"cluster":"up"}}', extra_filters))
    h2 = ''
    if up == 'h2':
        h2 = (',"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/'
              'envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}}')
    lim = ('"circuit_breakers":{"thresholds":[{"max_connections":100000,"max_pending_requests":100000,"max_requests":100000}]}')
    cl = clusters or ('{"name":"up","type":"STATIC","connect_timeout":"5s",%s%s,"load_assignment":{"cluster_name":"up","endpoints":[{'
                      '"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":%d}}}}]}]}}' %
                      (lim, h2, BACK[up]))
    return ('{"static_resources":{"listeners":[{"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":%d}},'
            '"filter_chains":[{%s"filters":[%s]}]}],"clusters":[%s]}}' % (p, tls, flt, cl))


def start_weft(inn, up, p, **kw):
    return spawn([os.path.abspath(BIN) + '/weft-waypoint', '-c', write('weft-%d.json' % p, envoy_like(inn, up, p, **kw)), '--concurrency', '1',
                  '-l', 'error'], 'weft.log')


def start_envoy(inn, up, p, **kw):
    return spawn([os.path.abspath(ENVOY), '-c', write('envoy-%d.json' % p, envoy_like(inn, up, p, **kw)), '--concurrency', '1',
                  '--disable-hot-restart', '-l', 'off'], 'envoy.log')


def start_nginx(inn, up, p):
    if up == 'h2' or inn == 'h2' or inn == 'tcp':
        return None  # nginx speaks no HTTP/2 upstream; its stream module is another package
    ssl = ' ssl' if inn.endswith('s') else ''
    if inn == 'h2s':
        ssl += ' http2'
    conf = '''daemon off; worker_processes 1; pid %(w)s/ng-%(p)d.pid; error_log %(w)s/ng.log; worker_rlimit_nofile 19000;
events { worker_connections 16000; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 3600; client_body_temp_path %(w)s/t1; proxy_temp_path %(w)s/t2; fastcgi_temp_path %(w)s/t3;
 uwsgi_temp_path %(w)s/t4; scgi_temp_path %(w)s/t5; ssl_certificate %(w)s/%(pem)s; ssl_certificate_key %(w)s/%(key)s; ssl_protocols TLSv1.2 TLSv1.3; http2_max_concurrent_streams 1024;
 upstream up { server 127.0.0.1:%(b)d; keepalive 256; keepalive_requests 100000000; }
 server { listen 127.0.0.1:%(p)d%(ssl)s backlog=4096; location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 8 32k; } } }''' % dict(
        w=W, p=p, b=BACK['h1'], ssl=ssl, **CERT)
    return spawn(['nginx', '-c', write('ng-%d.conf' % p, conf), '-e', W + '/ng.log'], 'ng.log')


def start_haproxy(inn, up, p):
    mode = 'tcp' if inn == 'tcp' else 'http'
    bind = 'bind 127.0.0.1:%d backlog 4096' % p
    if inn.endswith('s'):
        bind += ' ssl crt %s/%s alpn %s' % (W, CERT['both'], 'h2' if inn == 'h2s' else 'http/1.1')
    elif inn == 'h2':
        bind += ' proto h2'
    conf = '''global
 nbthread 1
 maxconn 6000
 tune.h2.max-concurrent-streams 1024
defaults
 mode %s
 timeout connect 5s
 timeout client 3600s
 timeout server 3600s
 timeout http-keep-alive 3600s
 option splice-auto
frontend f
 %s
 default_backend b
backend b
 http-reuse always
 server s 127.0.0.1:%d%s
''' % (mode, bind, BACK[up], ' proto h2' if up == 'h2' else '')
    if mode == 'tcp':
        conf = conf.replace(' http-reuse always\n', '').replace(' timeout http-keep-alive 3600s\n', '')
    return spawn(['haproxy', '-db', '-f', write('ha-%d.cfg' % p, conf)], 'ha.log')


PROXIES = [('weft', start_weft), ('envoy', start_envoy), ('nginx', start_nginx), ('haproxy', start_haproxy)]


def back_start():
    conf = '''daemon off; worker_processes 1; pid %(w)s/back.pid; error_log %(w)s/back.log; worker_rlimit_nofile 19000;
events { worker_connections 16000; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 3600; http2_max_concurrent_streams 4096; http2_recv_buffer_size 1m;
 client_body_temp_path %(w)s/t1; proxy_temp_path %(w)s/t2; fastcgi_temp_path %(w)s/t3; uwsgi_temp_path %(w)s/t4; scgi_temp_path %(w)s/t5;
 open_file_cache max=10; root %(w)s/web;
 server { listen 127.0.0.1:%(a)d backlog=4096; } server { listen 127.0.0.1:%(b)d http2 backlog=4096; } }'''
    os.makedirs(W + '/web')
    for n, size in (('small', 100), ('big', 65536), ('huge', 256 << 20)):
        with open(W + '/web/' + n, 'wb') as f:
            f.write(b'x' * min(size, 1 << 20) * max(1, size >> 20))
    subprocess.run('chmod -R a+rX %s' % W, shell=True)
    BACK['h1'], BACK['h2'] = port(), port()
    BACK['tcp'] = BACK['h1']
    spawn(['nginx', '-c', write('back.conf', conf % dict(w=W, a=BACK['h1'], b=BACK['h2'])), '-e', W + '/back.log'], 'back.log')
    wait_port(BACK['h1'])
    for c, key in ((CERT, ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256']), (RSA, ['rsa:2048'])):
        subprocess.run(['openssl', 'req', '-x509', '-newkey'] + key + ['-nodes', '-keyout', W + '/' + c['key'], '-out', W + '/' + c['pem'], '-days', '30',
                        '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'], check=True, stderr=subprocess.DEVNULL)
        with open(W + '/' + c['both'], 'w') as f:
            f.write(open(W + '/' + c['pem']).read() + open(W + '/' + c['key']).read())
        os.chmod(W + '/' + c['key'], 0o644)


# ---- load
def wrk(url, conns, secs, headers=()):
    out = subprocess.run(['wrk', '-t1', '-c%d' % conns, '-d%ds' % max(1, round(secs)), '--latency'] + [x for h in headers for x in ('-H', h)] + [url],
                         capture_output=True, text=True).stdout
    n = int(re.search(r'(\d+) requests in', out).group(1))
    bad = re.search(r'Non-2xx or 3xx responses: (\d+)', out)
    return n - (int(bad.group(1)) if bad else 0), out


def h2load(url, conns, streams, secs):
    out = subprocess.run(['h2load', '-t1', '-c%d' % conns, '-m%d' % streams, '-D', '%d' % max(1, round(secs)), '--warm-up-time=0', url],
                         capture_output=True, text=True).stdout
    m = re.search(r'requests: .*?(\d+) succeeded', out)
    return int(m.group(1)) if m else 0, out


def handshakes(url, secs):
    out = subprocess.run([os.path.abspath(BIN) + '/test/bench/handshake', url.split(':')[2].split('/')[0], str(secs), '4'], capture_output=True, text=True).stdout
    m = re.match(r'(\d+) ok', out)
    return int(m.group(1)) if m else 0, out


def job_req(inn, up, path, load, target):
    """Requests a CPU second of each proxy; repetitions turn about."""
    res = {}
    run = []
    for name, start in PROXIES:
        p = port()
        proc = start(inn, up, p)
        if proc:
            wait_port(p)
            run.append((name, proc, p))
    scheme = 'https' if inn.endswith('s') else 'http'
    for r in range(REPS + 1):
        for name, proc, p in run:
            c0 = cpu(proc)
            n, out = load('%s://127.0.0.1:%d%s' % (scheme, p, path), SECS if r else 1)
            c = cpu(proc) - c0
            if r and c > 0:
                res.setdefault(name, []).append(n / c)
    for _, proc, _ in run:
        stop(proc)
    return {k: statistics.median(v) for k, v in res.items()}


def job_rsa():
    global CERT
    kept, CERT = CERT, RSA
    try:
        return job_req('h1s', 'h1', '', handshakes, None)
    finally:
        CERT = kept


def job_tcp():
    res, run = {}, []
    for name, start in PROXIES:
        p = port()
        proc = start('tcp', 'tcp', p)
        if proc:
            wait_port(p)
            run.append((name, proc, p))
    for r in range(REPS + 1):
        for name, proc, p in run:
            c0 = cpu(proc)
            total = 0
            for _ in range(4):
                out = subprocess.run(['curl', '-s', '-o', '/dev/null', '-w', '%{size_download}', 'http://127.0.0.1:%d/huge' % p], capture_output=True, text=True)
                total += int(out.stdout or 0)
            if r:
                res.setdefault(name, []).append((cpu(proc) - c0) / (total / 2**30))
    for _, proc, _ in run:
        stop(proc)
    return {k: statistics.median(v) for k, v in res.items()}


def job_p99():
    """p99 in µs at 2,000 requests a second, above what direct costs; the least disturbed of the repetitions."""
    run, res = [('direct', None, BACK['h1'])], {}
    for name, start in PROXIES:
        p = port()
        proc = start('h1', 'h1', p)
        if proc:
            wait_port(p)
            run.append((name, proc, p))
    for r in range(2 * REPS):
        for name, _, p in run:
            out = subprocess.run([os.path.abspath(BIN) + '/test/bench/paced', str(p), '/small', '2000', str(SECS)], capture_output=True, text=True).stdout
            m = re.search(r' 0 failed, p50 (\d+) p99 (\d+)', out)
            if m:
                res.setdefault(name, []).append((int(m.group(2)), int(m.group(1))))
    for _, proc, _ in run[1:]:
        stop(proc)
    return [{n: min(x[k] for x in v) - min(x[k] for x in res['direct']) for n, v in res.items() if n != 'direct'} for k in (0, 1)]


def job_start():
    """From exec to the first answer, ms; and idle MB."""
    res, mem, full = {}, {}, {}
    for r in range(max(3, REPS)):
        for name, start in PROXIES:
            p = port()
            t = time.time()
            proc = start('h1', 'h1', p)
            if not proc:
                continue
            while True:
                try:
                    s = socket.create_connection(('127.0.0.1', p), 1)
                    s.sendall(b'GET /small HTTP/1.1\r\nHost: x\r\n\r\n')
                    if s.recv(1):
                        break
                except OSError:
                    time.sleep(0.0005)
                if time.time() - t > 20:
                    raise SystemExit('%s does not start; logs in %s' % (name, W))
            res.setdefault(name, []).append((time.time() - t) * 1000)
            s.close()
            time.sleep(0.5)
            mem.setdefault(name, []).append(rss(proc))
            full.setdefault(name, []).append(rss(proc, 'Rss'))
            stop(proc)
    med = lambda d: {k: statistics.median(v) for k, v in d.items()}
    return med(res), med(mem), med(full)


def job_idle(tls):
    """KiB an idle connection that had one request."""
    import ssl
    res, n = {}, 2000
    for name, start in PROXIES:
        p = port()
        proc = start('h1s' if tls else 'h1', 'h1', p)
        if not proc:
            continue
        wait_port(p)
        ctx = ssl._create_unverified_context()
        before, held = None, []
        for i in range(n + 200):
            s = socket.create_connection(('127.0.0.1', p), 5)
            if tls:
                s = ctx.wrap_socket(s)
            s.sendall(b'GET /small HTTP/1.1\r\nHost: x\r\n\r\n')
            s.recv(65536)
            held.append(s)
            if i == 199:
                time.sleep(0.3)
                before = rss(proc)
        time.sleep(0.5)
        res[name] = (rss(proc) - before) * 1024 / n
        for s in held:
            s.close()
        stop(proc)
    return res


def many(n):
    rt = ','.join('{"name":"v%d","domains":["h%d.example"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"c%d"}}]}' % (i, i, i) for i in range(n))
    cl = ','.join('{"name":"c%d","type":"STATIC","connect_timeout":"5s","load_assignment":{"cluster_name":"c%d","endpoints":[{"lb_endpoints":[{"endpoint":{'
                  '"address":{"socket_address":{"address":"127.0.0.1","port_value":%d}}}}]}]}}' % (i, i, BACK['h1']) for i in range(n))
    return rt, cl


def scale_haproxy(p):
    """Backends and a map from host to backend: what stands for routes and clusters there."""
    m = write('ha.map', ''.join('h%d.example c%d\n' % (i, i) for i in range(10000)))
    return write('ha-many.cfg', """global
 nbthread 1
 maxconn 6000
defaults
 mode http
 timeout connect 5s
 timeout client 60s
 timeout server 60s
frontend f
 bind 127.0.0.1:%d
 use_backend %%[req.hdr(host),lower,map(%s)]
%s""" % (p, m, ''.join('backend c%d\n server s 127.0.0.1:%d\n' % (i, BACK['h1']) for i in range(10000))))


def job_scale():
    """10,000 clusters and virtual hosts: s until an answer, MB."""
    res, mem = {}, {}
    rt, cl = many(10000)
    for name in ('weft', 'envoy', 'haproxy'):
        p = port()
        text = envoy_like('h1', 'h1', p, clusters=cl)
        text = re.sub(r'"virtual_hosts":\[.*?\]\}\]\}', lambda m: '"virtual_hosts":[%s]}' % rt, text, count=1)
        f = scale_haproxy(p) if name == 'haproxy' else write('%s-many.json' % name, text)
        t = time.time()
        proc = spawn({'weft': [os.path.abspath(BIN) + '/weft-waypoint', '-c', f, '--concurrency', '1', '-l', 'error'],
                      'envoy': [os.path.abspath(ENVOY), '-c', f, '--concurrency', '1', '--disable-hot-restart', '-l', 'off'],
                      'haproxy': ['haproxy', '-db', '-f', f]}[name], name + '.log')
        while True:
            try:
                s = socket.create_connection(('127.0.0.1', p), 1)
                s.sendall(b'GET /small HTTP/1.1\r\nHost: h9999.example\r\n\r\n')
                if s.recv(100).startswith(b'HTTP/1.1 200'):
                    break
            except OSError:
                time.sleep(0.005)
            if time.time() - t > 60:
                raise SystemExit('%s does not answer for the last of 10,000; logs in %s' % (name, W))
        res[name] = time.time() - t
        time.sleep(0.5)
        mem[name] = rss(proc)
        stop(proc)
    return res, mem


ADS = '{"ads":{},"resource_api_version":"V3","initial_fetch_timeout":"60s"}'


def ads_resources(n, p):
    """n clusters, their endpoints and one table of n virtual hosts, and the listener, as one DiscoveryResponse."""
    at = lambda t: '"@type":"type.googleapis.com/envoy.config.%s"' % t
    rt, _ = many(n)
    out = ['{%s,"name":"c%d","type":"EDS","connect_timeout":"5s","eds_cluster_config":{"eds_config":%s}}' % (at('cluster.v3.Cluster'), i, ADS) for i in range(n)]
    out += ['{%s,"cluster_name":"c%d","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":%d}}}}]}]}' %
            (at('endpoint.v3.ClusterLoadAssignment'), i, BACK['h1']) for i in range(n)]
    out.append('{%s,"name":"r","virtual_hosts":[%s]}' % (at('route.v3.RouteConfiguration'), rt))
    out.append('{%s,"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":%d}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":{'
               '"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"h",'
               '"rds":{"route_config_name":"r","config_source":%s},"http_filters":[{"name":"router","typed_config":{"@type":'
               '"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}' % (at('listener.v3.Listener'), p, ADS))
    return '{"resources":[%s]}' % ','.join(out)


def ask_last(p, n):
    s = socket.create_connection(('127.0.0.1', p), 1)
    with s:
        s.sendall(b'GET /small HTTP/1.1\r\nHost: h%d.example\r\n\r\n' % (n - 1))
        return s.recv(100).startswith(b'HTTP/1.1 200')


def ads_up(name, n, api='GRPC'):
    """The server with n of each and the proxy on it: (server, proxy, path of its admin, s until the last answers)"""
    sock, p = W + '/ads.sock', port()
    f = write('ads.json', ads_resources(n, p))
    if os.path.exists(sock):
        os.unlink(sock)
    srv = subprocess.Popen([os.path.abspath(BIN) + '/test/lib/ads_serve', sock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                           start_new_session=True)
    PROCS.append(srv)
    srv.stdout.readline()
    say(srv, 'load ' + f)
    boot = write('ads-boot.json', '{"node":{"id":"b","cluster":"b"},"admin":{"address":{"pipe":{"path":"%s/%s.admin"}}},"dynamic_resources":{"ads_config":{'
                 '"api_type":"%s","transport_api_version":"V3","grpc_services":[{"envoy_grpc":{"cluster_name":"xds"}}]},"lds_config":%s,"cds_config":%s},'
                 '"static_resources":{"clusters":[{"name":"xds","type":"STATIC","connect_timeout":"5s","typed_extension_protocol_options":{'
                 '"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.'
                 'HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},"load_assignment":{"cluster_name":"xds","endpoints":[{'
                 '"lb_endpoints":[{"endpoint":{"address":{"pipe":{"path":"%s"}}}}]}]}}]}}' % (W, name, api, ADS, ADS, sock))
    t = time.time()
    proc = spawn([os.path.abspath(BIN) + '/weft-waypoint', '-c', boot, '--concurrency', '1', '-l', 'error'] if name == 'weft' else
                 [os.path.abspath(ENVOY), '-c', boot, '--concurrency', '1', '--disable-hot-restart', '-l', 'off'], name + '.log')
    while True:
        try:
            if ask_last(p, n):
                return srv, proc, '%s/%s.admin' % (W, name), time.time() - t
        except OSError:
            time.sleep(0.005)
        if time.time() - t > 60:
            raise SystemExit('%s has nothing by ADS after 60 s' % name)


def say(srv, text):
    srv.stdin.write(text + '\n')
    srv.stdin.flush()
    got = srv.stdout.readline().strip()
    if got != 'loaded':
        raise SystemExit('the ADS server says %s to %s' % (got, text))


def job_ads():
    """10,000 clusters, endpoints and virtual hosts by ADS from our server: s from exec until the last answers."""
    res = {}
    for r in range(REPS):
        for name in ('weft', 'envoy'):
            srv, proc, _, took = ads_up(name, 10000)
            res.setdefault(name, []).append(took)
            stop(proc)
            stop(srv)
    return {k: statistics.median(v) for k, v in res.items()}


def cpu_ns(p):
    """All threads' time, finer than ticks."""
    n = 0
    for t in os.listdir('/proc/%d/task' % p.pid):
        with open('/proc/%d/task/%s/schedstat' % (p.pid, t)) as f:
            n += int(f.read().split()[0])
    return n


def updates_of(admin, cluster):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(admin)
        s.sendall(b'GET /stats?filter=^cluster[.]%s[.]update_success$ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n' % cluster.encode())
        out = b''
        while True:
            got = s.recv(65536)
            if not got:
                return int(re.search(rb'update_success: (\d+)', out).group(1))
            out += got


def job_change(n, api):
    """CPU ms of one changed endpoint among n clusters: 100 changes in 4 s, less what 4 s without them take."""
    res, files = {}, []
    for k in (0, 1):
        files.append(write('change-%d.json' % k, '{"resources":[{"@type":"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",'
                           '"cluster_name":"c5","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1",'
                           '"port_value":%d}}}}]}]}]}' % (BACK['h1'] + 1 + k)))
    for name in ('weft', 'envoy'):
        srv, proc, admin, _ = ads_up(name, n, api)
        before = updates_of(admin, 'c5')
        time.sleep(1)
        c0 = cpu_ns(proc)
        time.sleep(4)
        c1 = cpu_ns(proc)
        end = time.time() + 4
        for k in range(100):
            say(srv, 'add ' + files[k % 2])
            time.sleep(max(0, (end - time.time()) / (100 - k)))
        c2 = cpu_ns(proc)
        res[name] = max(0, (c2 - c1) - (c1 - c0)) / 1e6 / max(1, updates_of(admin, 'c5') - before)
        stop(proc)
        stop(srv)
    return res


def job_routes():
    """Cost of the last of 10,000 prefix routes against the first's."""
    res = {}
    rt = ','.join('{"match":{"prefix":"/p%05d/"},"route":{"cluster":"up","prefix_rewrite":"/"}}' % i for i in range(10000))
    for name, start in PROXIES[:2]:
        p = port()
        proc = start('h1', 'h1', p, routes=rt)
        wait_port(p, 30)
        got = {0: [], 1: []}
        for r in range(REPS + 1):
            for k, path in enumerate(('/p00000/small', '/p09999/small')):
                c0 = cpu(proc)
                n, _ = wrk('http://127.0.0.1:%d%s' % (p, path), 16, SECS if r else 1)
                if r:
                    got[k].append((cpu(proc) - c0) / n)
        res[name] = statistics.median(got[1]) / statistics.median(got[0])
        stop(proc)
    return res


w32 = lambda url, s: wrk(url, 32, s)
h2l = lambda url, s: h2load(url, 4, 32, s)
JOBS = {
    'h1': ('h1→h1 100 B, requests/CPU-s', lambda: job_req('h1', 'h1', '/small', w32, None), ('≥ 2.2 envoy, ≥ 0.9 haproxy', 2.2, 0.9)),
    'h1s': ('TLS h1→h1 100 B, requests/CPU-s', lambda: job_req('h1s', 'h1', '/small', w32, None), ('≥ 2.2 envoy, ≥ 0.9 haproxy', 2.2, 0.9)),
    'h2': ('h2→h2 100 B, requests/CPU-s', lambda: job_req('h2', 'h2', '/small', h2l, None), ('≥ 1.5 envoy, ≥ 0.9 haproxy', 1.5, 0.9)),
    'h2s': ('TLS h2→h1 100 B, requests/CPU-s', lambda: job_req('h2s', 'h1', '/small', h2l, None), ('≥ 1.5 envoy, ≥ 0.9 haproxy', 1.5, 0.9)),
    'h2big': ('h2→h2 64 KiB, requests/CPU-s', lambda: job_req('h2', 'h2', '/big', h2l, None), ('≥ the best', 1.0, 1.0)),
    'h1big': ('h1→h1 64 KiB, requests/CPU-s', lambda: job_req('h1', 'h1', '/big', w32, None), ('≥ the best', 1.0, 1.0)),
    'hs': ('full TLS 1.3 handshakes, ECDSA, /CPU-s', lambda: job_req('h1s', 'h1', '', handshakes, None), ('≥ 0.95 best', 0.95, 0.95)),
    'hsr': ('full TLS 1.3 handshakes, RSA-2048, /CPU-s', job_rsa, ('≥ 0.95 best', 0.95, 0.95)),
    'hs1': ('… each with one request, /CPU-s',
            lambda: job_req('h1s', 'h1', '/small', lambda u, s: wrk(u, 16, s, ('Connection: close',)), None), ('', 0, 0)),
}


def row(title, res, fmt, target=''):
    print('| %-42s | %s | %s |' % (title, ' | '.join(('%10s' % (fmt % res[n])) if n in res else '%10s' % '-' for n, _ in PROXIES), target), flush=True)


def main():
    want = os.environ.get('BENCH_JOBS', 'h1,h1s,h2,h2s,h2big,h1big,hs,hsr,hs1,tcp,p99,start,idle,scale,ads,change,routes').split(',')
    missing = [t for t in ('wrk', 'h2load', 'nginx', 'haproxy', 'curl', 'openssl') if not shutil.which(t)]
    if missing or not os.access(ENVOY, os.X_OK):
        raise SystemExit('missing: %s' % ' '.join(missing + ([] if os.access(ENVOY, os.X_OK) else ['envoy'])))
    for t in ('test/bench/handshake', 'test/bench/paced', 'test/lib/ads_serve'):
        if not os.access(os.path.join(BIN, t), os.X_OK):
            raise SystemExit('missing: %s/%s' % (BIN, t))
    back_start()
    all_res = {}
    print('| job | weft | envoy | nginx | haproxy | weft must reach |\n|---|---|---|---|---|---|')
    for j in want:
        if j in JOBS:
            title, fn, target = JOBS[j]
            r = fn()
            all_res[j] = r
            ratio = ' '.join('%s %.2f' % (n, r['weft'] / r[n]) for n, _ in PROXIES[1:] if n in r and 'weft' in r)
            row(title, r, '%.0f', '%s; is %s' % (target[0], ratio))
        elif j == 'tcp':
            all_res[j] = r = job_tcp()
            row('tcp_proxy, CPU-s/GiB', r, '%.2f', '≤ 0.25')
        elif j == 'p99':
            a, b = job_p99()
            all_res['p99'], all_res['p50'] = a, b
            row('p99 over direct at 2,000/s, µs', a, '%.0f', '≤ 0.2 envoy; is envoy %.2f' % (a['weft'] / a['envoy']))
            row('p50 over direct at 2,000/s, µs', b, '%.0f')
        elif j == 'start':
            a, b, c = job_start()
            all_res['start'], all_res['pss'], all_res['rss'] = a, b, c
            row('first answer after exec, ms', a, '%.1f', '≤ 20')
            row('idle memory (Rss), MB', c, '%.1f', '≤ 10')
            row('… of it its own (Pss), MB', b, '%.1f')
        elif j == 'idle':
            for tls in (False, True):
                all_res['idle_tls' if tls else 'idle'] = r = job_idle(tls)
                row('idle %sconnection, KiB' % ('TLS ' if tls else 'HTTP/1 '), r, '%.1f', '≤ %d' % (16 if tls else 2))
        elif j == 'scale':
            a, b = job_scale()
            all_res['scale_s'], all_res['scale_mb'] = a, b
            row('10,000 clusters + virtual hosts, s', a, '%.2f', '≤ 0.4')
            row('10,000 clusters + virtual hosts, MB', b, '%.0f', '≤ 80')
        elif j == 'ads':
            all_res[j] = r = job_ads()
            row('10,000 … by ADS, with endpoints, s', r, '%.2f', '≤ 1')
        elif j == 'change':
            for api, how in (('GRPC', 'state of the world'), ('DELTA_GRPC', 'delta')):
                few, lots = job_change(10, api), job_change(10000, api)
                all_res['change_10_' + api], all_res['change_10000_' + api] = few, lots
                row('one changed endpoint of 10, %s, ms' % how, few, '%.2f')
                row('… of 10,000, ms', lots, '%.2f', 'as with 10; is %.1f ×' % (lots['weft'] / max(few['weft'], 0.001)))
        elif j == 'routes':
            all_res[j] = r = job_routes()
            row('last of 10,000 prefixes : first', r, '%.2f', '≤ 1.1')
    if os.environ.get('BENCH_OUT'):
        json.dump(all_res, open(os.environ['BENCH_OUT'], 'w'), indent=1)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
try:
    main()
finally:
    for q in list(PROCS):
        stop(q)
    os.environ.get("KEEP") or shutil.rmtree(W, ignore_errors=True)
