/* What weft does by itself of OpenSSL's work in a handshake, as a provider beside OpenSSL's. */
#pragma once
#include <openssl/core_dispatch.h>
#include <stdbool.h>
#include <stdint.h>

/* Once a process; before the first handshake. Where it cannot be loaded OpenSSL goes on alone. */
void weft_tls_provider_load(void);

extern const OSSL_DISPATCH weft_tls13_kdf[]; /* tls_kdf.c */
