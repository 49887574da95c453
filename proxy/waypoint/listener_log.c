/* The listener's access log of connections that no filter chain took over: refused by listener
 * filters, without a chain, ended in the handshake. The others' chains log them. */
#include "proxy/waypoint/listener.h"

#include "proxy/l4/als.h"
#include <time.h>

void llog_write(const struct lconf *l, const struct llog *e)
{
	struct weft_info info = {.down = e->io,
				 .start_ns = e->start_ns,
				 .end_ns = weft_now_ns(),
				 .details = e->details,
				 .termination_details = e->termination,
				 .down_failure = e->failure,
				 .listener_name = l->name,
				 .listener_metadata = l->msg->metadata,
				 .filter_chain_name = e->chain,
				 .requested_server_name = e->io->sni,
				 .remote = e->io->remote};
	struct weft_format_in in = {.info = &info};
	struct timespec ts;

	if (!l->logs)
		return;
	info.arena = weft_arena_new(512);
	clock_gettime(CLOCK_REALTIME, &ts);
	info.start_wall_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec -
			     (info.end_ns - info.start_ns);
	if (e->no_chain)
		weft_info_flag(&info, WEFT_FLAG_NR);
	weft_access_logs_write(l->logs, &in);
	weft_arena_free(info.arena);
}

void llog_early(const struct lconf *l, const struct lpre_done *d, uint64_t start_ns, bool no_chain)
{
	struct weft_io_info io = {.local = d->local,
				  .remote = d->remote,
				  .direct_remote = d->direct_remote,
				  .sni = d->sni,
				  .alpn = "",
				  .start_ns = start_ns};
	struct weft_io_origin origin = {
		.direct_local = d->direct_local, .ja3 = d->ja3, .ja4 = d->ja4};

	io.origin = &origin;
	llog_write(l, &(struct llog){.io = &io,
				     .start_ns = start_ns,
				     .details = no_chain ? "filter_chain_not_found" : NULL,
				     .no_chain = no_chain});
}
