package privatepg

import "syscall"

// dieWithUs has PostgreSQL shut down at once ("immediate") when this process is killed before it
// can call Stop.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
