/* What only few formats read, and so is kept only where one does. */
#pragma once
#include <stdbool.h>

bool weft_format_wants_host_metadata(void);
