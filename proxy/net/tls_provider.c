#include "proxy/net/tls_provider.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static OSSL_PROVIDER *theirs, *ours;

static const OSSL_ALGORITHM kdfs[] = {
	{"TLS13-KDF", "provider=weft", weft_tls13_kdf, "TLS 1.3 key schedule"},
	{NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM *query(void *provctx, int operation, int *no_cache)
{
	*no_cache = 0;
	return operation == OSSL_OP_KDF ? kdfs : NULL;
}

static int init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
		void **provctx)
{
	static const OSSL_DISPATCH functions[] = {
		{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
		{0, NULL},
	};

	*out = functions;
	*provctx = (void *)handle;
	return 1;
}

static void unload(void)
{
	if (ours)
		OSSL_PROVIDER_unload(ours);
	if (theirs)
		OSSL_PROVIDER_unload(theirs);
}

static void load(void)
{
	/* one named by hand ends OpenSSL's own choice: that one by hand, too */
	theirs = OSSL_PROVIDER_load(NULL, "default");
	if (theirs && OSSL_PROVIDER_add_builtin(NULL, "weft", init) == 1)
		ours = OSSL_PROVIDER_load(NULL, "weft");
	if (ours)
		EVP_set_default_properties(NULL, "?provider=weft");
	OPENSSL_atexit(unload);
	ERR_clear_error();
}

void weft_tls_provider_load(void)
{
	pthread_once(&once, load);
}
