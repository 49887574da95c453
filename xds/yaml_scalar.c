#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool one_of(const char *s, const char *const *v)
{
	for (; *v; v++)
		if (!strcmp(s, *v))
			return true;
	return false;
}

static bool is_number(const char *s, bool *ret_float)
{
	size_t digits, n;

	*ret_float = false;
	s += *s == '-' || *s == '+';
	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'o'))
		return s[2] &&
		       !s[2 + strspn(s + 2, s[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567")];
	digits = n = strspn(s, "0123456789");
	if (s[n] == '.') {
		size_t more = strspn(s + n + 1, "0123456789");

		*ret_float = true;
		digits += more;
		n += 1 + more;
	}
	if (digits == 0)
		return false;
	if (s[n] == 'e' || s[n] == 'E') {
		*ret_float = true;
		n++;
		n += s[n] == '-' || s[n] == '+';
		digits = strspn(s + n, "0123456789");
		if (digits == 0)
			return false;
		n += digits;
	}
	return !s[n];
}

enum yaml_sort yaml_scalar_sort(const struct yev *e)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
	static const char *const bools[] = {"true",  "True",  "TRUE", "false",
					    "False", "FALSE", NULL};
	static const char *const yesno[] = {"yes", "Yes", "YES", "no",	"No",  "NO", "on",
					    "On",  "ON",  "off", "Off", "OFF", NULL};
	static const char *const floats[] = {".inf",  "-.inf", ".nan", ".Inf",
					     "-.Inf", ".NaN",  NULL};
	bool is_float;

	if (!e->plain)
		return YAML_STRING;
	/* nearly all are names: no other sort begins with their letters, or is longer than a number
	 */
	if (e->n && !strchr("~nNtTfFyYoO.+-0123456789", e->v[0]))
		return YAML_STRING;
	if (strlen(e->v) != e->n)
		return YAML_STRING;
	if (e->n > 5)
		return is_number(e->v, &is_float) ? is_float ? YAML_FLOAT : YAML_INT : YAML_STRING;
	if (one_of(e->v, nulls))
		return YAML_NULL;
	if (one_of(e->v, bools))
		return YAML_BOOL;
	if (one_of(e->v, yesno))
		return YAML_YESNO;
	if (one_of(e->v, floats))
		return YAML_FLOAT;
	if (is_number(e->v, &is_float))
		return is_float ? YAML_FLOAT : YAML_INT;
	return YAML_STRING;
}

static size_t escape(const struct yev *e, char *dst, size_t cap)
{
	size_t used = 0, i = 0;

	for (; i < e->n && used + 6 < cap; i++) {
		unsigned char c = (unsigned char)e->v[i];

		if (c < 0x20 || c == 0x7f)
			used += (size_t)snprintf(dst + used, cap - used, "\\x%02x", c);
		else
			dst[used++] = (char)c;
	}
	/* never cut inside a character */
	while (i < e->n && used && ((unsigned char)e->v[i] & 0xc0) == 0x80) {
		i--;
		used--;
	}
	dst[used] = '\0';
	return i;
}

const char *yaml_scalar_show(const struct yev *e, char *dst, size_t cap)
{
	char text[72];
	size_t shown;

	switch (e->type) {
	case YEV_LIST:
		snprintf(dst, cap, "a list");
		return dst;
	case YEV_MAP:
		snprintf(dst, cap, "a mapping");
		return dst;
	case YEV_SCALAR:
		break;
	default:
		snprintf(dst, cap, "an alias");
		return dst;
	}
	shown = escape(e, text, sizeof(text));
	switch (yaml_scalar_sort(e)) {
	case YAML_NULL:
		snprintf(dst, cap, "null");
		break;
	case YAML_BOOL:
	case YAML_YESNO:
		snprintf(dst, cap, "the boolean %s", text);
		break;
	case YAML_INT:
	case YAML_FLOAT:
		snprintf(dst, cap, "the number %s%s", text, shown < e->n ? "..." : "");
		break;
	default:
		snprintf(dst, cap, "\"%s\"%s", text, shown < e->n ? "..." : "");
	}
	return dst;
}

int yaml_scalar_u64(const char *s, bool *ret_negative, uint64_t *ret)
{
	char *end;
	int base = 10;

	*ret_negative = *s == '-';
	s += *s == '-' || *s == '+';
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	} else if (s[0] == '0' && s[1]) {
		return -EINVAL; /* 010 is eight to some readers and ten to others */
	}
	if (!*s || s[strspn(s, base == 16 ? "0123456789abcdefABCDEF" : "0123456789")])
		return -EINVAL;
	errno = 0;
	*ret = strtoull(s, &end, base);
	return errno ? -ERANGE : 0;
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

int yaml_base64_decode(const char *s, size_t n, uint8_t *dst, size_t *ret_n)
{
	size_t len = n, out = 0;
	uint32_t acc = 0;
	int bits = 0;

	while (len && s[len - 1] == '=')
		len--;
	if (n - len > 2 || (n != len && n % 4) || len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int v = base64_value(s[i]);

		if (v < 0)
			return -EINVAL;
		acc = acc << 6 | (uint32_t)v;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			dst[out++] = (uint8_t)(acc >> bits);
		}
	}
	if (acc & ((1u << bits) - 1))
		return -EINVAL; /* bits that no encoder sets */
	*ret_n = out;
	return 0;
}

void yaml_base64_encode(const uint8_t *p, size_t n, char *dst)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < n; i += 3) {
		size_t left = n - i;
		uint32_t v = (uint32_t)p[i] << 16;

		v |= left > 1 ? (uint32_t)p[i + 1] << 8 : 0;
		v |= left > 2 ? p[i + 2] : 0;
		*dst++ = digits[v >> 18];
		*dst++ = digits[v >> 12 & 63];
		*dst++ = left > 1 ? digits[v >> 6 & 63] : '=';
		*dst++ = left > 2 ? digits[v & 63] : '=';
	}
	*dst = '\0';
}

static int64_t unit_ns(const char *s, size_t n)
{
	static const struct {
		const char *name;
		int64_t ns;
	} units[] = {{"ns", 1},		{"us", 1000},	    {"ms", 1000000},
		     {"s", 1000000000}, {"m", 60000000000}, {"h", 3600000000000}};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strlen(units[i].name) == n && !memcmp(units[i].name, s, n))
			return units[i].ns;
	return 0;
}

/* At most 100 years, so that everything fits into nanoseconds. */
int yaml_duration_parse(const char *s, int64_t *ret_seconds, int32_t *ret_nanos)
{
	const int64_t max = 100LL * 366 * 86400 * 1000000000;
	bool negative = *s == '-';
	int64_t sum = 0;

	s += *s == '-' || *s == '+';
	if (!*s)
		return -EINVAL;
	while (*s) {
		size_t whole = strspn(s, "0123456789"), frac = 0, unit;
		int64_t ns, scale;
		uint64_t v;

		if (whole > 12)
			return -ERANGE;
		v = strtoull(s, NULL, 10);
		s += whole;
		if (*s == '.')
			frac = strspn(s + 1, "0123456789");
		if (whole + frac == 0)
			return -EINVAL;
		unit = strcspn(s + (*s == '.' ? 1 + frac : 0), "0123456789.");
		ns = unit_ns(s + (*s == '.' ? 1 + frac : 0), unit);
		if (ns == 0)
			return -EINVAL;
		if (v > (uint64_t)(max / ns))
			return -ERANGE;
		sum += (int64_t)v * ns;
		scale = ns;
		for (size_t i = 0; i < frac; i++) {
			scale /= 10;
			sum += (s[1 + i] - '0') * scale;
		}
		if (sum > max)
			return -ERANGE;
		s += (*s == '.' ? 1 + frac : 0) + unit;
	}
	if (negative)
		sum = -sum;
	*ret_seconds = sum / 1000000000;
	*ret_nanos = (int32_t)(sum % 1000000000);
	return 0;
}

void yaml_duration_text(int64_t seconds, int32_t nanos, char *dst, size_t cap)
{
	bool negative = seconds < 0 || nanos < 0;
	unsigned long long s =
		negative ? 0 - (unsigned long long)seconds : (unsigned long long)seconds;
	unsigned ns = nanos < 0 ? 0u - (unsigned)nanos : (unsigned)nanos;
	size_t len = (size_t)snprintf(dst, cap, "%s%llu", negative ? "-" : "", s);

	if (ns && len + 12 < cap) {
		len += (size_t)snprintf(dst + len, cap - len, ".%09u", ns % 1000000000);
		while (dst[len - 1] == '0')
			dst[--len] = '\0';
	}
	if (len + 1 < cap)
		memcpy(dst + len, "s", 2);
}
