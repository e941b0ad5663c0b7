// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The connection tracker at XDP. */
#define OVS_CTX_XDP
#include "ct.bpf.c"
