/* Command operators of times and durations. */
#include "proxy/l4/format_priv.h"

#include "proxy/core/worker.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char format_time_default[] = "%Y-%m-%dT%H:%M:%E3SZ";

enum { FRACTIONS = 4 };
/* The last second's text; digits of its fraction are put in anew. */
struct second {
	char fmt[64];
	time_t s;
	bool local, good;
	size_t n, n_frac;
	struct {
		uint16_t at, digits;
	} frac[FRACTIONS];
	char text[FVAL_TEXT];
};
static _Thread_local struct second last;

static void fraction(struct second *c, size_t digits)
{
	if (c->n_frac < FRACTIONS) {
		c->frac[c->n_frac].at = (uint16_t)c->n;
		c->frac[c->n_frac++].digits = (uint16_t)digits;
	}
	memset(c->text + c->n, '0', digits);
	c->n += digits;
}

static size_t digits_of(char ch)
{
	return ch >= '1' && ch <= '9' ? (size_t)(ch - '0') : 0;
}

static void second_make(struct second *c, const char *fmt, bool local, time_t s)
{
	char one[8] = "%";
	struct tm tm;

	if (local)
		localtime_r(&s, &tm);
	else
		gmtime_r(&s, &tm);
	c->n = c->n_frac = 0;
	for (; *fmt && c->n + 64 < FVAL_TEXT; fmt++) {
		if (*fmt != '%') {
			c->text[c->n++] = *fmt;
			continue;
		}
		fmt++;
		if (*fmt == 'E' && digits_of(fmt[1]) && fmt[2] == 'S') {
			c->n += (size_t)snprintf(c->text + c->n, 8, "%02d.", tm.tm_sec);
			fraction(c, digits_of(fmt[1]));
			fmt += 2;
		} else if (digits_of(*fmt) && fmt[1] == 'f') {
			fraction(c, digits_of(*fmt));
			fmt++;
		} else if (*fmt == 'f') {
			fraction(c, 9);
		} else if (*fmt == 's') {
			c->n += (size_t)snprintf(c->text + c->n, 24, "%lld", (long long)s);
		} else if (*fmt) {
			one[1] = *fmt;
			one[2] = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			c->n += strftime(c->text + c->n, 64, one, &tm);
#pragma GCC diagnostic pop
		} else {
			break;
		}
	}
}

void fval_time(struct fval *v, const char *fmt, bool local, uint64_t wall_ns)
{
	time_t s = (time_t)(wall_ns / 1000000000);
	unsigned long ns = (unsigned long)(wall_ns % 1000000000);
	char nine[9];
	size_t i;

	if (!last.good || last.s != s || last.local != local || strcmp(last.fmt, fmt)) {
		second_make(&last, fmt, local, s);
		last.s = s;
		last.local = local;
		last.good = strlen(fmt) < sizeof(last.fmt);
		if (last.good)
			strcpy(last.fmt, fmt);
	}
	memcpy(v->text, last.text, last.n);
	if (last.n_frac)
		for (i = 9; i-- > 0; ns /= 10)
			nine[i] = (char)('0' + ns % 10);
	for (i = 0; i < last.n_frac; i++)
		memcpy(v->text + last.frac[i].at, nine, last.frac[i].digits);
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = last.n;
}

void fop_start_time(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	if (in->info)
		fval_time(v, op->s ? op->s : format_time_default, op->arg, in->info->start_wall_ns);
}

void fop_emit_time(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	fval_time(v, op->s ? op->s : format_time_default, op->arg,
		  (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

void fop_duration(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	uint64_t from, to;

	if (!i)
		return;
	from = i->start_ns;
	to = 0;
	switch (op->arg) {
	case D_ALL:
		to = i->end_ns ? i->end_ns : weft_now_ns();
		break;
	case D_REQUEST:
		to = i->last_rx_ns;
		break;
	case D_RESPONSE:
		to = i->up_first_rx_ns;
		break;
	case D_RESPONSE_TX:
		from = i->up_first_rx_ns;
		to = from ? i->last_tx_ns : 0;
		break;
	case D_REQUEST_TX:
		to = i->up_last_tx_ns;
		break;
	case D_POOL:
		from = i->up_want_ns;
		to = i->up_ready_ns;
		break;
	default:
		from = i->down ? i->down->start_ns : 0;
		to = i->down && i->down->tls ? i->down->ready_ns : 0;
	}
	if (from && to >= from && to)
		fval_num(v, (int64_t)((to - from) / 1000000));
}

/* Beside the points of the request, from which Envoy measures too. */
static const char *const points[] = {"DS_RX_BEG", "DS_RX_END", "US_TX_BEG", "US_TX_END",
				     "US_RX_BEG", "US_RX_END", "DS_TX_BEG", "DS_TX_END",
				     "US_CX_BEG", "US_CX_END", "US_HS_END"};

int fop_time_point(const char *name, size_t n)
{
	size_t i;

	for (i = 0; i < sizeof(points) / sizeof(*points); i++)
		if (strlen(points[i]) == n && !memcmp(points[i], name, n))
			return (int)i;
	return -1;
}

static uint64_t point(const struct weft_info *i, unsigned which)
{
	const uint64_t v[] = {i->start_ns,	  i->last_rx_ns,     i->up_first_tx_ns,
			      i->up_last_tx_ns,	  i->up_first_rx_ns, i->up_last_rx_ns,
			      i->first_tx_ns,	  i->last_tx_ns,     i->up_cx_ns,
			      i->up_connected_ns, i->up_hs_ns};

	return v[which];
}

/* arg: from and to; max: ns of the unit. */
void fop_common(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	uint64_t from, to, unit = op->max;

	if (!in->info)
		return;
	from = point(in->info, op->arg & 0xff);
	to = point(in->info, op->arg >> 8 & 0xff);
	if (from && to >= from)
		fval_num(v, (int64_t)((to - from) / unit));
}
