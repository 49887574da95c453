/* Files of events that are no access logs: health checks'. One sink for each path, main thread. */
#pragma once

void event_files_use(void); /* health checks write theirs here from now on */
void event_files_reopen(void);
