/* The one version of all programs. */
#pragma once
#define WEFT_VERSION "0.1.0"
