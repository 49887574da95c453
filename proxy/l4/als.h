/* Access logs: formats of Envoy's command operators, compiled once; filters on what is logged; file
 * and stdio sinks that many threads write to without a lock in the byte path. */
#pragma once
#include "proxy/l4/info.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/accesslog/v3/accesslog.pb-c.h"
#include "xds/proto/envoy/config/core/v3/substitution_format_string.pb-c.h"

struct weft_format;	/* compiled, immutable */
struct weft_format_in { /* what operators read; pointers may be NULL */
	const struct weft_info *info;
	const struct weft_headers *req, *resp, *trailers;
	const char *body;     /* %LOCAL_REPLY_BODY% */
	const char *log_type; /* %ACCESS_LOG_TYPE% */
};
/* "%REQ(:METHOD)% …". json/text by SubstitutionFormatString; the two others for header values and
 * local replies. */
int weft_format_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			const struct weft_format **ret);
int weft_format_prepare_msg(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Core__V3__SubstitutionFormatString *m,
			    const struct weft_format **ret);
int weft_format_prepare_json(struct weft_cfg *c, const struct weft_path *at,
			     const Google__Protobuf__Struct *s, const struct weft_format **ret);
bool weft_format_is_json(const struct weft_format *f);
const char *weft_format_content_type(const struct weft_format *f);
void weft_format_write(const struct weft_format *f, const struct weft_format_in *in,
		       struct evbuffer *out);
/* Into the arena; *ret_empty: every operator was empty. For header values. */
const char *weft_format_string(const struct weft_format *f, const struct weft_format_in *in,
			       struct weft_arena *a, size_t *ret_n, bool *ret_empty);

struct weft_access_logs; /* compiled list, immutable */
int weft_access_logs_prepare(struct weft_cfg *c, const struct weft_path *at,
			     Envoy__Config__Accesslog__V3__AccessLog *const *v, size_t n,
			     const struct weft_access_logs **ret); /* NULL where n is 0 */
void weft_access_logs_write(const struct weft_access_logs *l,
			    const struct weft_format_in *in); /* NULL is fine */
/* One filter by itself: local_reply_config's mappers. */
struct weft_access_filter;
int weft_access_filter_prepare(struct weft_cfg *c, const struct weft_path *at,
			       const Envoy__Config__Accesslog__V3__AccessLogFilter *m,
			       const struct weft_access_filter **ret);
bool weft_access_filter_match(const struct weft_access_filter *f, const struct weft_format_in *in);
/* From now on files of loggers are not opened when they are prepared: --mode validate. */
void weft_access_logs_check_only(void);
void weft_access_logs_reopen(void); /* SIGUSR1, /reopen_logs: main thread */
void weft_access_logs_flush(void);  /* before exit, when the workers have ended */
