/* Memory on both sides of an SSL: what the two TLS stacks' BIOs have in common. Inline: it is the
 * byte path. */
#pragma once
#include "proxy/core/arena.h"
#include <openssl/bio.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Ciphertext that waits for the socket. */
struct weft_tls_pend {
	uint8_t *p;
	size_t off, n, cap;
};
static inline void weft_tls_pend_put(struct weft_tls_pend *w, const void *p, size_t n)
{
	if (w->off + w->n + n > w->cap) {
		if (w->off > 0)
			memmove(w->p, w->p + w->off, w->n);
		w->off = 0;
		if (w->n + n > w->cap) {
			w->cap = w->n + n;
			w->p = weft_xrealloc(w->p, w->cap);
		}
	}
	memcpy(w->p + w->off + w->n, p, n);
	w->n += n;
}

/* Ciphertext that was received; only within a call. */
struct weft_tls_in {
	const uint8_t *p;
	size_t n;
};
/* A BIO's read: 0 at an end that was seen, -1 to be asked again. */
static inline int weft_tls_in_read(struct weft_tls_in *in, BIO *b, char *dst, int n, bool eof)
{
	size_t k = n < 0 ? 0 : (size_t)n;

	BIO_clear_retry_flags(b);
	if (k > in->n)
		k = in->n;
	if (k == 0) {
		if (eof)
			return 0;
		BIO_set_retry_read(b);
		return -1;
	}
	memcpy(dst, in->p, k);
	in->p += k;
	in->n -= k;
	return (int)k;
}

static inline int weft_tls_bio_create(BIO *b)
{
	BIO_set_init(b, 1);
	return 1;
}

/* Made once and kept; NULL: memory is out. */
static inline BIO_METHOD *weft_tls_bio_method(const char *name,
					      int (*write)(BIO *b, const char *p, int n),
					      int (*read)(BIO *b, char *dst, int n),
					      long (*ctrl)(BIO *b, int cmd, long num, void *ptr))
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, name);

	if (m) {
		BIO_meth_set_write(m, write);
		BIO_meth_set_read(m, read);
		BIO_meth_set_ctrl(m, ctrl);
		BIO_meth_set_create(m, weft_tls_bio_create);
	}
	return m;
}
