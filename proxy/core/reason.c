#include "proxy/core/reason.h"

#include <assert.h>
#include <stddef.h>

static const struct {
	const char *code, *flag, *text;
} reasons[] = {
#define REASON(name, code, flag, text) {code, flag, text},
#include "proxy/core/reasons.def"
#undef REASON
};

const char *weft_reason_code(enum weft_reason r)
{
	assert((size_t)r < WEFT_REASON_COUNT);
	return reasons[r].code;
}

const char *weft_reason_flag(enum weft_reason r)
{
	assert((size_t)r < WEFT_REASON_COUNT);
	return reasons[r].flag;
}

const char *weft_reason_text(enum weft_reason r)
{
	assert((size_t)r < WEFT_REASON_COUNT);
	return reasons[r].text;
}
