/* The CA's files. Written aside and linked or renamed into place, so that two agents of one folder
 * never see half of one, and of two that make the same file one wins and the other reads the
 * winner's. */
#include "agent/ca_int.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_MAX = 1 << 20 };
static const char *const names[] = {"ca.pem", "ca-next.pem", "roots.pem"};

static void path_of(const struct weft_ca *ca, enum weft_ca_file f, char *dst)
{
	snprintf(dst, PATH_MAX, "%.3800s/%s", ca->dir, names[f]);
}

/* The whole file, or NULL: -ENOENT is no error of the caller's in *ret_r. */
static BIO *file_read(struct weft_ca *ca, enum weft_ca_file f, int *ret_r, struct weft_err *reterr)
{
	char path[PATH_MAX];
	BIO *b = NULL;
	FILE *in;
	struct stat *st = &ca->st[f];

	*ret_r = 0;
	memset(st, 0, sizeof(*st));
	path_of(ca, f, path);
	in = fopen(path, "re");
	if (!in) {
		*ret_r = errno == ENOENT
				 ? -ENOENT
				 : weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	if (fstat(fileno(in), st) < 0 || st->st_size > FILE_MAX) {
		*ret_r = weft_fail(reterr, NULL, EFBIG, "%s: larger than %d bytes", path, FILE_MAX);
	} else if (f != WEFT_CA_ROOTS && (st->st_mode & 077)) {
		*ret_r = weft_fail(reterr, NULL, EPERM,
				   "%s: holds a key, its mode must be 0600, is %03o", path,
				   (unsigned)st->st_mode & 0777);
	} else {
		char buf[4096];
		size_t n;

		b = BIO_new(BIO_s_mem());
		while ((n = fread(buf, 1, sizeof(buf), in)) > 0)
			BIO_write(b, buf, (int)n);
		OPENSSL_cleanse(buf, sizeof(buf));
	}
	fclose(in);
	return b;
}

static int signer_read(struct weft_ca *ca, enum weft_ca_file f, struct weft_ca_signer *ret,
		       struct weft_err *reterr)
{
	struct weft_ca_signer s = {0};
	int r;
	BIO *b = file_read(ca, f, &r, reterr);

	if (!b)
		return r;
	s.key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
	s.cert = s.key ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
	BIO_free(b);
	if (!s.cert || X509_check_private_key(s.cert, s.key) != 1 || X509_check_ca(s.cert) < 1) {
		weft_ca_signer_done(&s);
		weft_ca_ssl(NULL, "");
		return weft_fail(reterr, NULL, EINVAL,
				 "%s/%s: must be a private key followed by its CA certificate",
				 ca->dir, names[f]);
	}
	weft_ca_signer_done(ret);
	*ret = s;
	return 0;
}

static int roots_read(struct weft_ca *ca, struct weft_err *reterr)
{
	int r;
	BIO *b = file_read(ca, WEFT_CA_ROOTS, &r, reterr);
	X509 *v[WEFT_CA_ROOTS_MAX], *x;
	unsigned n = 0;
	unsigned long e;

	if (!b)
		return r == -ENOENT ? 0 : r;
	while (n < WEFT_CA_ROOTS_MAX && (x = PEM_read_bio_X509(b, NULL, NULL, NULL)))
		v[n++] = x;
	e = ERR_peek_last_error();
	ERR_clear_error();
	BIO_free(b);
	if (n < WEFT_CA_ROOTS_MAX && ERR_GET_REASON(e) != PEM_R_NO_START_LINE) {
		while (n)
			X509_free(v[--n]);
		return weft_fail(reterr, NULL, EINVAL, "%s/%s: certificate %u cannot be read",
				 ca->dir, names[WEFT_CA_ROOTS], n + 1);
	}
	while (ca->n_extra)
		X509_free(ca->extra[--ca->n_extra]);
	memcpy(ca->extra, v, n * sizeof(v[0]));
	ca->n_extra = n;
	return 0;
}

/* Writes a new file beside its place; its name is in tmp. */
static int aside(const struct weft_ca *ca, BIO *b, mode_t mode, char *tmp, struct weft_err *reterr)
{
	char *p;
	long n = BIO_get_mem_data(b, &p);
	int fd;

	snprintf(tmp, PATH_MAX, "%.3800s/.new-XXXXXX", ca->dir);
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "%s: %s", ca->dir, strerror(errno));
	if (fchmod(fd, mode) < 0 || write(fd, p, (size_t)n) != n || fsync(fd) < 0) {
		int e = errno ? errno : EIO;

		close(fd);
		unlink(tmp);
		return weft_fail(reterr, NULL, e, "%s: %s", tmp, strerror(e));
	}
	close(fd);
	return 0;
}

static int roots_write(struct weft_ca *ca, X509 *more, struct weft_err *reterr)
{
	BIO *b = BIO_new(BIO_s_mem());
	char tmp[PATH_MAX], path[PATH_MAX];
	int64_t now = weft_ca_now(ca);
	unsigned i;
	bool ok;
	int r;

	ok = b && PEM_write_bio_X509(b, more);
	for (i = 0; ok && i < ca->n_extra; i++)
		if (X509_cmp(ca->extra[i], more) &&
		    weft_ca_time(X509_get0_notAfter(ca->extra[i])) > now)
			ok = PEM_write_bio_X509(b, ca->extra[i]);
	r = ok ? aside(ca, b, 0644, tmp, reterr) : weft_ca_ssl(reterr, "roots");
	BIO_free(b);
	if (r < 0)
		return r;
	path_of(ca, WEFT_CA_ROOTS, path);
	if (rename(tmp, path) < 0) {
		r = weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
		unlink(tmp);
		return r;
	}
	return roots_read(ca, reterr);
}

static bool roots_have(const struct weft_ca *ca, X509 *x)
{
	unsigned i;

	for (i = 0; i < ca->n_extra; i++)
		if (X509_cmp(ca->extra[i], x) == 0)
			return true;
	return false;
}

/* Makes a signer and gives it the name, unless somebody was faster. */
static int signer_create(struct weft_ca *ca, enum weft_ca_file f, struct weft_err *reterr)
{
	struct weft_ca_signer s = {0};
	char tmp[PATH_MAX], path[PATH_MAX];
	BIO *b = BIO_new(BIO_s_secmem());
	int r = weft_ca_root_make(ca, &s, reterr);

	if (r >= 0 && (!b || !PEM_write_bio_PKCS8PrivateKey(b, s.key, NULL, NULL, 0, NULL, NULL) ||
		       !PEM_write_bio_X509(b, s.cert)))
		r = weft_ca_ssl(reterr, "PEM");
	if (r >= 0)
		r = aside(ca, b, 0600, tmp, reterr);
	BIO_free(b);
	weft_ca_signer_done(&s);
	if (r < 0)
		return r;
	path_of(ca, f, path);
	if (link(tmp, path) < 0 && errno != EEXIST)
		r = weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	unlink(tmp);
	return r;
}

int weft_ca_files_load(struct weft_ca *ca, struct weft_err *reterr)
{
	int r = signer_read(ca, WEFT_CA_NOW, &ca->now, reterr);

	if (r == -ENOENT) {
		r = signer_create(ca, WEFT_CA_NOW, reterr);
		if (r >= 0)
			r = signer_read(ca, WEFT_CA_NOW, &ca->now, reterr);
	}
	if (r < 0)
		return r;
	r = signer_read(ca, WEFT_CA_NEXT, &ca->next, reterr);
	if (r == -ENOENT)
		weft_ca_signer_done(&ca->next);
	else if (r < 0)
		return r;
	r = roots_read(ca, reterr);
	if (r >= 0 && !roots_have(ca, ca->now.cert))
		r = roots_write(ca, ca->now.cert, reterr);
	if (r >= 0 && ca->next.cert && !roots_have(ca, ca->next.cert))
		r = roots_write(ca, ca->next.cert, reterr);
	return r;
}

bool weft_ca_files_changed(const struct weft_ca *ca)
{
	int f;

	for (f = WEFT_CA_NOW; f <= WEFT_CA_ROOTS; f++) {
		char path[PATH_MAX];
		struct stat st = {0};

		path_of(ca, (enum weft_ca_file)f, path);
		if (stat(path, &st) < 0)
			memset(&st, 0, sizeof(st));
		if (st.st_ino != ca->st[f].st_ino ||
		    st.st_mtim.tv_sec != ca->st[f].st_mtim.tv_sec ||
		    st.st_mtim.tv_nsec != ca->st[f].st_mtim.tv_nsec ||
		    st.st_size != ca->st[f].st_size)
			return true;
	}
	return false;
}

int weft_ca_next_make(struct weft_ca *ca, struct weft_err *reterr)
{
	int r = signer_create(ca, WEFT_CA_NEXT, reterr);

	return r < 0 ? r : weft_ca_files_load(ca, reterr);
}

int weft_ca_next_promote(struct weft_ca *ca, struct weft_err *reterr)
{
	char from[PATH_MAX], to[PATH_MAX];

	path_of(ca, WEFT_CA_NEXT, from);
	path_of(ca, WEFT_CA_NOW, to);
	/* ENOENT: another agent did it */
	if (rename(from, to) < 0 && errno != ENOENT)
		return weft_fail(reterr, NULL, errno, "%s: %s", to, strerror(errno));
	return weft_ca_files_load(ca, reterr);
}
