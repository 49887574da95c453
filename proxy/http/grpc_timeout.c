#include "proxy/http/grpc_timeout.h"

#include "proxy/core/decimal.h"

enum { DIGITS_MAX = 8, VALUE_MAX = 99999999 };

int64_t weft_grpc_timeout(const struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_GRPC_TIMEOUT);
	int64_t v = 0;
	size_t i;

	if (!f || f->value_len < 2 || f->value_len > DIGITS_MAX + 1)
		return -1;
	for (i = 0; i + 1 < f->value_len; i++) {
		if (f->value[i] < '0' || f->value[i] > '9')
			return -1;
		v = 10 * v + f->value[i] - '0';
	}
	switch (f->value[i]) {
	case 'H':
		return v * 3600000;
	case 'M':
		return v * 60000;
	case 'S':
		return v * 1000;
	case 'm':
		return v;
	case 'u':
		return (v + 999) / 1000;
	case 'n':
		return (v + 999999) / 1000000;
	}
	return -1;
}

/* In the finest unit whose digits suffice. */
void weft_grpc_timeout_set(struct weft_headers *h, uint64_t ms)
{
	static const char units[] = "mSMH";
	const char *u = units;
	char text[WEFT_DECIMAL + 1];
	size_t n;

	while (ms > VALUE_MAX && u[1]) {
		ms /= *u == 'm' ? 1000 : 60;
		u++;
	}
	n = weft_decimal(text, ms < VALUE_MAX ? ms : VALUE_MAX);
	text[n++] = *u;
	weft_headers_set_id(h, WEFT_H_GRPC_TIMEOUT, text, n);
}
