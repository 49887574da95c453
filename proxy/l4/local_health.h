/* Whether this process was told to fail health checks of itself (/healthcheck/fail). One for the
 * process; any thread. */
#pragma once
#include <stdbool.h>

void weft_local_health_fail(bool failed);
bool weft_local_health_failed(void);
