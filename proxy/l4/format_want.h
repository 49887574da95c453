/* What only few formats read, and so is kept only where one does. */
#pragma once
#include <stdbool.h>

bool weft_format_wants_host_metadata(void);
bool weft_format_wants_sent(void); /* bytes to the client: known once they are framed */
