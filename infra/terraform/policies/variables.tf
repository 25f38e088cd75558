variable "bucket" {
  type = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits and hyphens; a dot breaks TLS."
  }
}

variable "prefix" {
  type    = string
  default = ""

  validation {
    condition     = can(regex("^([A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*)?$", var.prefix))
    error_message = "A prefix has letters, digits, _ and -, with single slashes between folders and none at its ends."
  }
}
