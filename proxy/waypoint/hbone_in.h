/* The network filter that ends HBONE. */
#pragma once
void weft_hbone_register(void); /* before any configuration is read */
