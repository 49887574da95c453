/* What a gateway at the edge of the mesh gets. */
#include "agent/gateway.h"

void gw_edge_out(struct tr *t, struct tr_gateway *g)
{
	tr_bad(t, g->o, g->spec, "gateway_class_name", -1, NULL,
	       "class weft-gateway is not acted on: nothing listens for this Gateway");
}
