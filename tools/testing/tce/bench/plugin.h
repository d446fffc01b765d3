/* SPDX-License-Identifier: GPL-2.0 */
/* What count.c uses of QEMU's plugin interface, version 7, for which Debian has no header. */
#ifndef TCE_BENCH_PLUGIN_H
#define TCE_BENCH_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t qemu_plugin_id_t;
typedef void (*vcpu_callback)(unsigned int vcpu, void *data);
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
struct qemu_plugin_scoreboard;
struct qemu_plugin_u64 { struct qemu_plugin_scoreboard *score; size_t offset; };
struct qemu_plugin_reg_descriptor {
	struct qemu_plugin_register *handle;
	const char *name, *feature;
	bool is_readonly;
};
enum { NO_REGISTERS, READS_REGISTERS };
enum { COND_NE = 3 };
/* GLib's GArray and GByteArray begin so. */
struct array { char *data; unsigned int length; };

void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, vcpu_callback callback, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*)(struct qemu_plugin_tb *tb, void *data), void *data);
void qemu_plugin_register_vcpu_tb_exec_cond_cb(struct qemu_plugin_tb *tb, vcpu_callback callback, int flags,
					       int condition, struct qemu_plugin_u64 entry, uint64_t value, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, vcpu_callback callback, int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t length);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
int qemu_plugin_num_vcpus(void);
void qemu_plugin_u64_set(struct qemu_plugin_u64 entry, unsigned int vcpu, uint64_t value);
struct array *qemu_plugin_get_registers(void);
bool qemu_plugin_read_register(struct qemu_plugin_register *handle, struct array *to);
bool qemu_plugin_read_memory_hwaddr(uint64_t address, struct array *to, size_t length);
struct array *g_byte_array_new(void);
struct array *g_byte_array_set_size(struct array *array, unsigned int length);

#endif
