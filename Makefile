# SPDX-License-Identifier: GPL-2.0
# Front door. `make help` lists what there is.

BUILD   ?= build
ROOT    ?= $(BUILD)/root
FLAVOUR ?= modern-64k
MACHINE ?= pseries
export BUILD ROOT KDIR LINUX JOBS TCE_MIRROR TOOLS BUSYBOX

enter := tools/testing/tce/enter.sh

.PHONY: help run kunit coverage mutants mutants-boot bench bench-doc bench-update profile soak check check-all overlay series series-check shell kernel module toolchain clean

help:
	@echo 'make run                  build everything and show the driver at work on pseries and powernv10'
	@echo 'make check                the tests; ends with "N passed, N failed, N skipped"'
	@echo 'make check-all            the same with 4K pages, powernv9, powernv11 and every patch on its own'
	@echo 'make check ONLY=word      only the tests whose name has this word'
	@echo 'make kunit                the KUnit suites under kunit.py, on ppc64le and on x86_64 with KASAN;'
	@echo '                          ARCH=x86_64 or ARCH=powerpcle for one of them'
	@echo 'make mutants              break the code on purpose, one line at a time: does a KUnit test notice?'
	@echo '                          in user mode Linux; ONLY=space.rs for one file'
	@echo 'make mutants-boot         the same for what KUnit does not run: does a guest of make check notice?'
	@echo 'make coverage             which lines of the driver the KUnit suites run; after make kunit ARCH=x86_64'
	@echo 'make bench                what mapping costs, beside the driver in arch/powerpc, and whether goals are met;'
	@echo '                          ONLY=word for the rows with a word'
	@echo 'make bench-doc            write the table and charts of Documentation/driver-api/tce-iommu-performance'
	@echo 'make bench-update         write the counts that make check compares with, after a change that is meant'
	@echo 'make profile CASE=...     instructions of one measurement by function; without CASE, which there are'
	@echo 'make soak HOURS=0.5       coming and going, resets and I/O in random order by a seed that it prints;'
	@echo '                          SEED=n to repeat, MACHINE=... for one machine'
	@echo 'make shell MACHINE=...    a guest to look around in (pseries powernv9 powernv10 powernv11);'
	@echo '                          APPEND="..." for more arguments of its kernel'
	@echo 'make overlay DST=dir      leave a kernel tree with our files and patches in dir'
	@echo 'make series DST=dir       write the series for git am: our patches and files'
	@echo 'make series-check         build and boot after each patch of the series; ONLY=word for some of them'
	@echo 'make kernel FLAVOUR=...   build kernels: modern-64k legacy-64k modern-debug-64k modern-4k ...'
	@echo 'make module               rebuild the driver alone against an already built kernel (make M=)'
	@echo 'make toolchain ROOT=dir   make a toolchain root (2 GB) for ROOT=dir'
	@echo 'make clean                remove $(BUILD)'
	@echo 'Options:'
	@echo '  KDIR=dir                your own 7.3.y tree; it is copied, never written to'
	@echo '  LINUX=7.3-rc7           the source of another release that Debian has; experimental has candidates'
	@echo '  BUILD=dir, ROOT=dir     where to build; a toolchain root made before'
	@echo '  JOBS=n, FLAVOUR=...     parallel jobs of make; the kernel for make shell'
	@echo '  TCE_MIRROR=url          the Debian mirror that the toolchain root is made from'
	@echo '  TOOLS=host BUSYBOX=file the tools of this machine and a static ppc64le busybox,'
	@echo '                          with KDIR=dir; no toolchain root, no root'

run:
	@$(enter) run
check:
	@$(enter) check $(if $(ONLY),--only '$(ONLY)')
check-all:
	@$(enter) check --all $(if $(ONLY),--only '$(ONLY)')
kunit:
	@$(enter) kunit $(if $(ARCH),--arch '$(ARCH)')
coverage:
	@$(enter) coverage
mutants mutants-boot:
	@$(enter) $@ $(if $(ONLY),--only '$(ONLY)')
bench:
	@$(enter) bench $(if $(ONLY),--only '$(ONLY)')
bench-doc bench-update:
	@$(enter) $@
profile:
	@$(enter) profile '$(CASE)'
soak:
	@test -n '$(HOURS)' || { echo 'tce: say how long: make soak HOURS=0.5' >&2; exit 2; }
	@$(enter) soak '$(HOURS)' $(if $(SEED),--seed '$(SEED)') $(if $(filter-out file,$(origin MACHINE)),--machine '$(MACHINE)')
shell:
	@$(enter) shell '$(MACHINE)' '$(FLAVOUR)' --append='$(APPEND)'
kernel:
	@$(enter) kernel '$(FLAVOUR)'
module:
	@$(enter) module '$(FLAVOUR)'
overlay series:
	@test -n '$(DST)' || { echo 'tce: say where: make $@ DST=dir' >&2; exit 2; }
	@mkdir -p '$(DST)'
	@TCE_BIND="$$(cd '$(DST)' && pwd)" $(enter) $@ "$$(cd '$(DST)' && pwd)"
series-check:
	@$(enter) series-check $(if $(ONLY),--only '$(ONLY)')
toolchain:
	@tools/testing/tce/toolchain.sh $(ROOT)
clean:
	@rm -rf '$(BUILD)' 2>/dev/null || sudo rm -rf '$(BUILD)'
