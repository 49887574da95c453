/* Full TLS 1.3 handshakes against one port, from a few threads, for some seconds: no session is
 * ever offered again, each connection ends in order from both sides. Prints how many were whole.
 * handshake PORT SECONDS THREADS */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct run {
	SSL_CTX *ctx;
	uint16_t port;
	int64_t until;
	unsigned long ok, bad;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int dial(uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct timeval limit = {.tv_sec = 5};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int one(const struct run *r)
{
	int fd = dial(r->port), ok = 0;
	SSL *s = fd < 0 ? NULL : SSL_new(r->ctx);
	char rest[512];

	if (s && SSL_set_fd(s, fd) == 1 && SSL_set_tlsext_host_name(s, "localhost") == 1 &&
	    SSL_connect(s) == 1 && !SSL_session_reused(s)) {
		SSL_shutdown(s);
		shutdown(fd, SHUT_WR);
		while (SSL_read(s, rest, sizeof(rest)) > 0)
			;
		ok = 1;
	}
	ERR_clear_error();
	SSL_free(s);
	if (fd >= 0)
		close(fd);
	return ok;
}

static void *work(void *arg)
{
	struct run *r = arg;

	while (now_ms() < r->until && r->bad < 100) {
		if (one(r))
			r->ok++;
		else
			r->bad++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned long ok = 0, bad = 0;
	pthread_t th[64];
	struct run r[64];
	int n = argc > 3 ? atoi(argv[3]) : 8;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	static const unsigned char alpn[] = "\x8http/1.1";

	if (argc < 3 || n < 1 || n > 64 || !ctx ||
	    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1) {
		fprintf(stderr, "usage: handshake PORT SECONDS [THREADS 1..64]\n");
		return 2;
	}
	SSL_CTX_set_alpn_protos(ctx, alpn, sizeof(alpn) - 1);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	for (int i = 0; i < n; i++) {
		r[i] = (struct run){ctx, (uint16_t)atoi(argv[1]),
				    now_ms() + (int64_t)(atof(argv[2]) * 1000), 0, 0};
		if (pthread_create(&th[i], NULL, work, &r[i]) != 0)
			return 1;
	}
	for (int i = 0; i < n; i++) {
		pthread_join(th[i], NULL);
		ok += r[i].ok;
		bad += r[i].bad;
	}
	SSL_CTX_free(ctx);
	printf("%lu ok, %lu failed\n", ok, bad);
	return bad > 0;
}
