/* What a filter answers, and which way bytes go. */
#pragma once
enum weft_flow {
	WEFT_NEXT, /* go on with the next filter */
	WEFT_WAIT, /* hold this direction until resumed; the chain buffers up to the limit, then
		      stops reading */
	WEFT_DONE, /* answered or ended here: no further filter runs */
};
enum weft_dir { WEFT_REQUEST /* from the client */, WEFT_RESPONSE /* to the client */, WEFT_DIRS };
