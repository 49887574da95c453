/* The one list of reasons (reasons.def) as an enum. Pure. */
#pragma once
enum weft_reason {
#define REASON(name, code, flag, text) WEFT_REASON_##name,
#include "proxy/core/reasons.def"
#undef REASON
	WEFT_REASON_COUNT
};
const char *weft_reason_code(enum weft_reason r); /* "policy_deny" */
const char *weft_reason_flag(enum weft_reason r); /* response_flags label */
const char *weft_reason_text(enum weft_reason r);
