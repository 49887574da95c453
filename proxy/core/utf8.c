#include "proxy/core/utf8.h"

#include <string.h>

size_t weft_utf8_len(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	/* a NUL is no continuation: this never reads past the end */
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

bool weft_utf8_is(const char *s, size_t n)
{
	for (size_t i = 0, len; i < n; i += len) {
		char text[5] = "";

		len = 1;
		if ((unsigned char)s[i] < 0x80)
			continue;
		memcpy(text, s + i, n - i < 4 ? n - i : 4);
		len = weft_utf8_len(text);
		if (!len)
			return false;
	}
	return true;
}
