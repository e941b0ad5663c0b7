# SPDX-License-Identifier: Apache-2.0
#
# Names that people try; ./run does the work.

all:
	./run setup

check:
	./run tests

bench:
	./run bench

.PHONY: all bench check
